"""docs/ros2.md tells every parameter, topic and launch argument there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from edgeseg.messages import ENCODINGS
from edgeseg_ros.settings import is_live, rows

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT = (ROOT / "docs" / "ros2.md").read_text("utf-8")
NODE = ROOT / "ros2_ws" / "src" / "edgeseg"


def table(heading: str) -> list[list[str]]:
    """Cells of the rows of the table in a section."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_parameter_is_told_and_when_it_changes() -> None:
    told = {name: row[2] for row in table("Parameters") for name in re.findall("`(.+?)`", row[0])}
    when = {row.name: "live" if is_live(row.name) else "configure" for row in rows()}
    assert told == when | {"autostart": "start", "build_only": "start"}


def test_plain_defaults_are_those_of_the_code() -> None:
    told = {name: row[1] for row in table("Parameters") for name in re.findall("`(.+?)`", row[0])}
    for row in rows():
        if isinstance(row.default, str | int | float):
            words = {"True": "true", "False": "false", "": "none"}
            assert told[row.name] == words.get(str(row.default), str(row.default))


def test_every_topic_is_told() -> None:
    told = {row[0].strip("`").split("`")[0] for row in table("Topics")}
    source = "".join(p.read_text("utf-8") for p in (NODE / "edgeseg_ros").glob("*.py"))
    pictures = re.search(r"PICTURES = \((.+)\)", source)
    assert pictures is not None
    names = set(re.findall(r'"(~/\w+|/diagnostics)"', source)) | {"image"}
    assert told == names | {f"~/{name}" for name in re.findall(r'"(\w+)"', pictures[1])}


def test_every_encoding_is_told() -> None:
    row = next(row for row in table("Topics") if row[0].startswith("`image`"))
    assert set(ENCODINGS) <= set(re.findall(r"\w+", row[3]))


def test_every_launch_argument_is_told() -> None:
    tree = ast.parse((NODE / "launch" / "segment.launch.py").read_text("utf-8"))
    value = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ARGUMENTS"
    )
    assert isinstance(value, ast.Tuple)
    names = {row.elts[0].value for row in value.elts}  # type: ignore[attr-defined]
    start = TEXT.split("\n## Start\n")[1].split("\n## ")[0]
    assert all(re.search(rf"\b{name}\b", start) for name in names)
    assert set(re.findall(r"(\w+):=", start)) - {"image", "autostart"} <= names
