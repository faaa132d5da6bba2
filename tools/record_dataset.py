#!/usr/bin/env python3
"""Write docs/results/dataset.json: the splits of the dataset in each size, with their hashes.

    python tools/record_dataset.py data data-640

From the ``manifest.json`` of each folder. Folders of one size are joined, as when the frozen splits
lie apart from those of a training.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RECORD = Path(__file__).resolve().parent.parent / "docs" / "results" / "dataset.json"
SPLITS = ("train", "val", "calib", "test", "unseen")


def read(folder: Path) -> tuple[str, dict[str, Any]]:
    """Size of the pictures, WxH, and the manifest of a folder without its list of files."""
    path = folder / "manifest.json"
    if not path.exists():
        raise SystemExit(
            f"got no {path}; wanted what make_dataset.py writes last; let it end for {folder}"
        )
    manifest = json.loads(path.read_text("utf-8"))
    del manifest["files"]
    return "{}x{}".format(*manifest["size"]), manifest


def join(manifests: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """The record: size -> manifest, with the splits of all folders of that size."""
    record: dict[str, Any] = {}
    for size, manifest in manifests:
        known = record.setdefault(size, manifest)["splits"]
        for split, one in manifest["splits"].items():
            if known.setdefault(split, one) != one:
                raise SystemExit(
                    f"got two splits {split} of {size} that differ; wanted one; name one folder"
                )
    for made in record.values():
        made["splits"] = {
            split: made["splits"][split] for split in SPLITS if split in made["splits"]
        }
    return dict(sorted(record.items()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="FOLDER", help="of make_dataset.py"
    )
    parser.add_argument("--out", type=Path, default=RECORD, metavar="FILE")
    args = parser.parse_args(arguments)
    record = join(map(read, args.folders))
    args.out.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    print(args.out)


if __name__ == "__main__":
    main()
