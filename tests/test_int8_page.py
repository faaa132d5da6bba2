"""docs/int8.md: its commands are ones that the command line takes, its names those of the code."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from edgeseg import cli

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "int8.md").read_text("utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.strip()]
NAMED = re.findall(r"`(edgeseg [^`\n]+|--[^`\n]+)`", TEXT)


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.startswith("edgeseg ")])
def test_a_command_is_one_that_parses(command: str) -> None:
    words = shlex.split(command)[1:]
    args = cli._parser().parse_args(words)
    given = [word for word in words if word.startswith("--")]
    assert args.verb == words[0]
    assert len(given) == len(set(given))


def test_other_commands_run() -> None:
    for command in [one for one in COMMANDS if not one.startswith("edgeseg ")]:
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_page_asks_and_answers_with_commands() -> None:
    """Every question has its number and, but for those on what was said already, a command."""
    flow = TEXT[TEXT.index("## INT8 lost accuracy") :]
    accuracy, speed = flow.split("## INT8 gained no speed")
    for part, most in ((accuracy, 8), (speed, 6)):
        numbers = [int(n) for n in re.findall(r"^\*\*(\d+)\. .+[?.,]\*\*", part, re.MULTILINE)]
        assert numbers[-1] == most
        assert numbers[:1] == [1]
        assert len(re.findall("^```bash", part, re.MULTILINE)) >= most - 2
    for flag in ("--precision fp32,int8", "--sensitivity", "--method", "--float-layers"):
        assert flag in accuracy
    assert "--max-ap-drop" in accuracy
    assert "edgeseg check" in accuracy
    assert "edgeseg bench" in speed


def test_flags_and_verbs_in_the_text_exist() -> None:
    help_texts = {name: _help(name) for name in cli.VERBS}
    for words in NAMED:
        name, *rest = words.split()
        if name == "edgeseg":
            assert rest[0] in cli.VERBS, words
        else:
            assert any(name in text for text in help_texts.values()), words


def _help(verb: str) -> str:
    actions = cli._parser()._subparsers
    assert actions is not None
    (choices,) = (one.choices for one in actions._group_actions)
    return str(choices[verb].format_help())


def test_the_layers_that_are_named_exist() -> None:
    pytest.importorskip("onnx")
    from edgeseg.bundle import PACKAGED
    from edgeseg.export.fold import folded
    from edgeseg.export.quantize import layers

    known = {layer.name for layer in layers(folded(PACKAGED / "fastinst-nano" / "model.onnx"))}
    named = re.findall(r"--float-layers (\S+)", TEXT)
    assert named
    assert {name for words in named for name in words.split(",")} <= known


def test_numbers_stand_only_between_the_markers() -> None:
    """Times and accuracies come from docs/results/quantization.json."""
    own = re.sub(r"<!-- quantization -->.*<!-- /quantization -->", "", TEXT, flags=re.DOTALL)
    assert not re.findall(r"\d ms|\d\.\d+x|0\.6\d\d", own)
