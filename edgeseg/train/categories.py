"""Categories of COCO tables as labelling tools write them, made one list of classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgeseg.errors import InputError

Say = Callable[[str], None]


def tidy(tables: list[dict[str, Any]], say: Say) -> list[dict[str, Any]]:
    """Tables without categories that are no classes; rows without an id or a name are left alone.

    Dropped are, where nothing is labelled with them, the ``supercategory`` of others (Roboflow
    lists it as a class) and what stands a second time under one name.
    """
    labelled = [_labelled(table) for table in tables]
    used = {
        row["name"]
        for table, ids in zip(tables, labelled, strict=True)
        for row in _rows(table)
        if row["id"] in ids
    }
    tidied = []
    for table, ids in zip(tables, labelled, strict=True):
        dropped = [row for row in _rows(table) if _is_no_class(row, _rows(table), ids, used)]
        if dropped:
            names = ", ".join(row["name"] for row in dropped)
            say(f"categories that nothing is labelled with, left out as no classes: {names}")
        kept = [row for row in table["categories"] if not any(row is one for one in dropped)]
        tidied.append({**table, "categories": kept})
    return tidied


def _rows(table: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Categories that have an id and a name."""
    return [
        row
        for row in table["categories"]
        if isinstance(row, Mapping)
        and isinstance(row.get("id"), int)
        and isinstance(row.get("name"), str)
    ]


def _labelled(table: Mapping[str, Any]) -> set[int]:
    """Ids of the categories that have annotations."""
    keys = [one.get("category_id") for one in table["annotations"] if isinstance(one, Mapping)]
    return {key for key in keys if isinstance(key, int)}


def _is_no_class(
    row: Mapping[str, Any], rows: list[Mapping[str, Any]], ids: set[int], used: set[str]
) -> bool:
    name = row["name"]
    if row["id"] in ids:
        return False
    if name not in used and any(
        one.get("supercategory") == name and one["name"] != name for one in rows
    ):
        return True
    alike = [one for one in rows if one["name"] == name]
    return row is not next((one for one in alike if one["id"] in ids), alike[0])


def renumber(table: dict[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """The table of val with the categories of train, matched by name.

    Raises:
        InputError: something is labelled with a class that train lacks.
    """
    ids = {row["name"]: row["id"] for row in like["categories"]}
    names = {row["id"]: row["name"] for row in table["categories"]}
    lacking = sorted({names[key] for key in _labelled(table) & names.keys()} - ids.keys())
    if lacking:
        raise InputError(
            f"got objects of {', '.join(lacking)} in val, which train doesn't know; wanted only "
            f"its classes, {', '.join(ids)}; export both from one project"
        )
    known = {key: ids[name] for key, name in names.items() if name in ids}
    annotations = [_renumbered(one, known) for one in table["annotations"]]
    return {**table, "categories": like["categories"], "annotations": annotations}


def _renumbered(one: Any, known: Mapping[int, int]) -> Any:
    """With train's number; one that no category has becomes a text, as train may have it."""
    key = one.get("category_id") if isinstance(one, Mapping) else None
    return {**one, "category_id": known.get(key, str(key))} if isinstance(key, int) else one
