"""From what a user calls "my dataset" to a checked training and a validation part."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg.errors import InputError
from edgeseg.train.categories import renumber, tidy
from edgeseg.train.check_data import Report, check, check_rows, count
from edgeseg.train.data import CocoDataset, read_tables

HELD_OUT = 0.2
Say = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """Both parts of a dataset, and what the check found in it."""

    train: CocoDataset
    val: CocoDataset
    reports: tuple[Report, ...]


def open_source(
    data: Path, say: Say = lambda _: None, size_hw: tuple[int, int] | None = None
) -> Source:
    """Check a dataset and open its two parts.

    Args:
        data: a folder with the splits ``train`` and ``val`` (or ``valid``), or one COCO file beside
            its pictures, of which a fifth is held out for validation: always the same.
        say: takes what is to be told, line by line.
        size_hw: of the network's input, for a word on small objects.

    Raises:
        InputError: not a dataset, or one that nothing can be learned or measured from.
    """
    if data.suffix.lower() == ".json":
        return _from_one_file(data, say, size_hw)
    names = "train", "val" if (data / "val").is_dir() else "valid"
    folders = [data / name for name in names]
    if not all(folder.is_dir() for folder in folders):
        files = [*sorted(data.glob("*.json")), *sorted(data.glob("*/*.json"))]
        hint = f"try --data {files[0]}" if files else "check the path"
        raise InputError(
            f"got {str(data)!r}; wanted a folder with the splits train and val, or one COCO file "
            f"such as my/coco.json; {hint}"
        )
    tables = tidy([read_tables(folder) for folder in folders], say)
    for name, table in zip(names, tables, strict=True):
        check_rows(name, table)
    tables[1] = renumber(tables[1], tables[0])
    (train, train_report), (val, val_report) = (
        _part(folder, table, say, size_hw) for folder, table in zip(folders, tables, strict=True)
    )
    return Source(train, val, (train_report, val_report))


def _part(
    place: Path, table: dict[str, Any], say: Say, size_hw: tuple[int, int] | None
) -> tuple[CocoDataset, Report]:
    """One checked split, after its report was told."""
    table, report = check(place.name, table, place, size_hw)
    say(report.text())
    _refuse_empty(report, place)
    return CocoDataset(place, table), report


def _refuse_empty(report: Report, place: Path) -> None:
    """An InputError where no picture or no object is left."""
    lost = ", ".join(f"{len(names)} {flaw}" for flaw, names in report.flaws.items())
    if not report.pictures and "spoiled" not in report.flaws:
        raise InputError(
            f"got no usable picture in {report.name} ({lost or 'its list of images is empty'}); "
            f"wanted those of its table at {place}, in images/ or beside it; check file_name there"
        )
    if not sum(report.objects.values()):
        raise InputError(
            f"got no usable object in {report.name} ({lost}); wanted polygons or run-length "
            "masks; export the labels as COCO instance segmentation"
        )


def _from_one_file(path: Path, say: Say, size_hw: tuple[int, int] | None) -> Source:
    if not path.is_file():
        raise InputError(f"got no file {str(path)!r}; wanted a COCO file; check the path")
    (table,) = tidy([read_tables(path)], say)
    whole, report = _part(path, table, say, size_hw)
    train, val = hold_out(whole.table)
    say(
        f"{len(val['images'])} of {len(whole)} pictures are held out for validation, chosen by the "
        "hash of their names: the same in every run"
    )
    parts = []
    for name, table in (("train", train), ("val", val)):
        found = count(Report(name), table)
        say(found.text())
        if not sum(found.objects.values()):
            raise InputError(
                f"got no object for {name} among the {len(whole)} pictures of {path}; wanted some "
                "on both sides of the division; label more pictures"
            )
        parts.append(CocoDataset(path, table))
    return Source(parts[0], parts[1], (report,))


def hold_out(table: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A table as one for training and one for validation, divided by the hash of picture names."""
    groups = {row["id"]: _group(row["file_name"]) for row in table["images"]}
    order = sorted(set(groups.values()), key=lambda group: (_hash(group), group))
    chosen = set(order[: max(1, round(HELD_OUT * len(order)))])
    train, val = (
        _only(table, {key for key, group in groups.items() if (group in chosen) is held})
        for held in (False, True)
    )
    return train, val


def _group(name: str) -> str:
    """What is to stay on one side: copies that Roboflow made of a picture, NAME.rf.HASH.jpg."""
    return name.replace("\\", "/").split(".rf.")[0]


def _hash(group: str) -> str:
    return hashlib.sha256(Path(group).name.encode()).hexdigest()


def _only(table: dict[str, Any], kept: set[int]) -> dict[str, Any]:
    """The part of a table that belongs to some pictures."""
    return {
        **table,
        "images": [row for row in table["images"] if row["id"] in kept],
        "annotations": [row for row in table["annotations"] if row["image_id"] in kept],
    }
