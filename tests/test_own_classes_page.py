"""docs/own-classes.md: its commands are ones that the command line takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from edgeseg import cli

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "own-classes.md").read_text("utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.startswith("edgeseg ")])
def test_a_command_is_one_that_parses(command: str) -> None:
    words = shlex.split(command)[1:]
    assert cli._parser().parse_args(words).verb == words[0]


def test_the_check_is_quoted_in_its_own_words() -> None:
    pytest.importorskip("torch")
    from edgeseg.train.check_data import FLAWS

    quoted = re.findall(r"^  \d+ ([^;:]+): (.+?); e.g. ", TEXT, re.MULTILINE)
    assert len(quoted) == 3
    assert set(quoted) <= set(FLAWS.values()) | {
        (what, done) for what, done in FLAWS.values() if ":" in done
    }


def test_the_defaults_in_the_text_are_those_of_the_code() -> None:
    pytest.importorskip("onnx")
    from edgeseg.train.finetune import CALIBRATION_PICTURES, LOOKS, FinetuneConfig
    from edgeseg.train.source import HELD_OUT

    default = FinetuneConfig(Path(), "", Path())
    assert f"`--minutes` ({default.minutes:g})" in TEXT
    assert f"`--patience` looks ({default.patience})" in TEXT
    assert f"INT8 on {CALIBRATION_PICTURES} of the training pictures" in TEXT
    assert (LOOKS, HELD_OUT) == (10, 0.2) and "ten looks" in TEXT and "A fifth" in TEXT


def test_the_example_is_what_the_tool_runs() -> None:
    import own_classes

    numbers = " ".join(f"--{split} {count}" for split, count in own_classes.COUNTS.items())
    assert numbers in TEXT
    assert "500 rendered pictures" in TEXT and sum(own_classes.COUNTS.values()) == 500
