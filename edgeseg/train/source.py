"""From what a user calls "my dataset" to a checked training and a validation part."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg.errors import InputError
from edgeseg.train.check_data import Report, check
from edgeseg.train.data import CocoDataset, read_tables

HELD_OUT = 0.2
Say = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """Both parts of a dataset, and what the check found in it."""

    train: CocoDataset
    val: CocoDataset
    reports: tuple[Report, ...]


def open_source(data: Path, say: Say = lambda _: None) -> Source:
    """Check a dataset and open its two parts.

    Args:
        data: a folder with the splits ``train`` and ``val``, or one COCO file beside its pictures,
            of which a fifth is held out for validation: always the same.
        say: takes what is to be told, line by line.

    Raises:
        InputError: not a dataset, or one that nothing can be learned or measured from.
    """
    if data.suffix.lower() == ".json":
        return _from_one_file(data, say)
    if not (data / "train").is_dir() or not (data / "val").is_dir():
        files = sorted(data.glob("*.json"))
        hint = f"try --data {files[0]}" if files else "check the path"
        raise InputError(
            f"got {str(data)!r}; wanted a folder with the splits train and val, or one COCO file "
            f"such as my/coco.json; {hint}"
        )
    parts = [_part(data / split, split, read_tables(data / split), say) for split in _SPLITS]
    (train, train_report), (val, val_report) = parts
    if train.classes != val.classes:
        raise InputError(
            f"got the classes {', '.join(train.classes)} in train and {', '.join(val.classes)} in "
            "val; wanted the same; export both from one project"
        )
    return Source(train, val, (train_report, val_report))


_SPLITS = ("train", "val")


def _part(folder: Path, name: str, table: dict[str, Any], say: Say) -> tuple[CocoDataset, Report]:
    """One checked split, after its report was told."""
    table, report = check(name, table, folder)
    say(report.text())
    _refuse_empty(report, folder)
    return CocoDataset(folder, table), report


def _refuse_empty(report: Report, folder: Path) -> None:
    """An InputError where no picture or no object is left."""
    lost = ", ".join(f"{len(names)} {flaw}" for flaw, names in report.flaws.items())
    if not report.pictures and "spoiled" not in report.flaws:
        raise InputError(
            f"got no usable picture in {report.name} ({lost or 'its list of images is empty'}); "
            f"wanted those of its table in {folder / 'images'} or beside it; check file_name there"
        )
    if not sum(report.objects.values()):
        raise InputError(
            f"got no usable object in {report.name} ({lost}); wanted polygons or run-length "
            "masks; export the labels as COCO instance segmentation"
        )


def _from_one_file(path: Path, say: Say) -> Source:
    if not path.is_file():
        raise InputError(f"got no file {str(path)!r}; wanted a COCO file; check the path")
    whole, report = _part(path.parent, path.name, read_tables(path), say)
    train, val = hold_out(whole.table)
    say(
        f"{len(val['images'])} of {len(whole)} pictures are held out for validation, chosen by the "
        "hash of their names: the same in every run"
    )
    parts = []
    for name, table in (("train", train), ("val", val)):
        if not any(not one.get("iscrowd") for one in table["annotations"]):
            raise InputError(
                f"got no object for {name} among the {len(whole)} pictures of {path}; wanted some "
                "on both sides of the division; label more pictures"
            )
        parts.append(CocoDataset(path.parent, table))
    return Source(parts[0], parts[1], (report,))


def hold_out(table: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A table as one for training and one for validation, divided by the hash of picture names."""
    names = sorted({row["file_name"] for row in table["images"]}, key=_hash)
    chosen = set(names[: max(1, round(HELD_OUT * len(names)))])
    train, val = (
        _only(table, {r["id"] for r in table["images"] if (r["file_name"] in chosen) is held})
        for held in (False, True)
    )
    return train, val


def _hash(name: str) -> str:
    return hashlib.sha256(Path(name).name.encode()).hexdigest()


def _only(table: dict[str, Any], kept: set[int]) -> dict[str, Any]:
    """The part of a table that belongs to some pictures."""
    return {
        **table,
        "images": [row for row in table["images"] if row["id"] in kept],
        "annotations": [row for row in table["annotations"] if row["image_id"] in kept],
    }
