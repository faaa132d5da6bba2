"""What the verbs of the command line share: their description, common flags, common output."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg import record

if TYPE_CHECKING:
    from edgeseg.bundle import ModelSpec

DEFAULT_MODEL = "fastinst-nano"
Parser = argparse.ArgumentParser
Arguments = argparse.Namespace


@dataclass(frozen=True)
class Verb:
    """One word after ``edgeseg``.

    Attributes:
        summary: line shown by ``edgeseg --help``.
        arguments: adds the verb's flags to its parser.
        action: does the work; returns the exit code.
        extra: pip extra that the verb needs, or "".
        modules: what that extra must have brought.
    """

    summary: str
    arguments: Callable[[Parser], None]
    action: Callable[[Arguments], int]
    extra: str = ""
    modules: tuple[str, ...] = ()

    @property
    def lacking(self) -> list[str]:
        """Modules that are not installed; none of them is loaded to find out."""
        return [name for name in self.modules if find_spec(name) is None]

    @property
    def help(self) -> str:
        """The summary, with the extra that is to be installed first."""
        if not self.lacking:
            return self.summary
        return f"{self.summary} (first: pip install 'edgeseg[{self.extra}]')"


def model_flags(parser: Parser, engine: str = "auto", threads: int = 0) -> None:
    """Which engine, precision and threads a network runs with."""
    text = "ort, openvino, trt, trt-dla, fake, eager or auto (default: %(default)s)"
    parser.add_argument("--engine", default=engine, metavar="NAME", help=text)
    parser.add_argument("--precision", help="one of the bundle's (default: its first, e.g. fp32)")
    text = "CPU threads of the network; 0: all (default: %(default)s)"
    parser.add_argument("--threads", type=int, default=threads, metavar="N", help=text)


def threshold_flag(parser: Parser) -> None:
    """Which instances are kept."""
    text = "least score of an instance, 0..1 (default: the bundle's)"
    parser.add_argument("--score-threshold", type=float, metavar="S", help=text)


def settings(args: Arguments) -> dict[str, Any]:
    """The flags of `model_flags` and `threshold_flag` as `load` takes them."""
    return {
        name: getattr(args, name) for name in ("engine", "precision", "threads", "score_threshold")
    }


def json_flag(parser: Parser) -> None:
    """Where the numbers go, beside the terminal."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")


def write_json(args: Arguments, report: Mapping[str, Any]) -> None:
    """Write a report where `json_flag` says, if it does."""
    if args.json is not None:
        record.write(args.json, report)


def size_hw(text: str) -> tuple[int, int]:
    """Height and width from ``640x480``, which people write with the width first."""
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"got {text!r}; wanted WIDTHxHEIGHT; write e.g. 640x480")
    return int(height), int(width)


def bundle_flags(parser: Parser) -> None:
    """What the verbs that write a bundle take."""
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder to make")
    text = "size of the network's input (default: the source's)"
    parser.add_argument("--input-size", type=size_hw, metavar="WIDTHxHEIGHT", help=text)
    text = "most objects in a picture (default: the source's)"
    parser.add_argument("--max-instances", type=int, metavar="N", help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace an older bundle there")
    json_flag(parser)


def bundle_settings(args: Arguments) -> dict[str, Any]:
    """The flags of `bundle_flags` that were given, as the export half takes them."""
    named = {"input_hw": args.input_size, "max_instances": args.max_instances}
    given = {name: value for name, value in named.items() if value is not None}
    return {"overwrite": args.overwrite, **given}


def wrote(args: Arguments, spec: ModelSpec) -> int:
    """Say which bundle was written."""
    height, width = spec.input_hw
    print(f"bundle {args.out}: {spec.family}, {width}x{height}, {len(spec.classes)} classes")
    print(f"next: edgeseg check {args.out}")
    write_json(args, {"out": str(args.out), **asdict(spec)})
    return 0
