"""The ``edgeseg`` command: verbs, each importing its own module on use."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError, MissingPartError, OutputError, missing

DEFAULT_MODEL = "fastinst-nano"
EPILOG = """\
start here:
  edgeseg demo                              segment the packaged clip: how fast, how well
  edgeseg run video.mp4 --video masks.mp4   segment your own video
  edgeseg VERB --help                       what a verb takes

exit codes: 0 ok, 1 a check failed, 2 a mistake in what was asked, 3 a part is missing
"""
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: words after ``edgeseg``; None takes those of the process.

    Returns:
        The exit code: 0 ok, 1 a check failed, 2 a user's mistake, 3 a part is missing.
    """
    args = _parser().parse_args(argv)
    verb = VERBS[args.verb]
    try:
        if verb.lacking:
            raise missing(verb.lacking[0], verb.extra)
        _check_json(args)
        code = verb.action(args)
        sys.stdout.flush()
        return code
    except EdgesegError as error:
        print(f"edgeseg {args.verb}: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if (error.name or "edgeseg").startswith("edgeseg"):
            raise
        print(f"edgeseg {args.verb}: {_broken(error)}", file=sys.stderr)
        return MissingPartError.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has left (`edgeseg ... | head`): keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _broken(error: ModuleNotFoundError) -> str:
    """What to say when a library of the base install has gone."""
    return (
        f"got no module {error.name!r}; wanted the base install; "
        "run: pip install --force-reinstall edgeseg"
    )


def _parser() -> Parser:
    parser = Parser(
        prog="edgeseg",
        description="Frame in, masks out: real-time instance segmentation for robots.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, verb in VERBS.items():
        one = verbs.add_parser(name, help=verb.help, description=verb.help)
        verb.arguments(one)
    return parser


def _version() -> str:
    from edgeseg import __version__

    return f"edgeseg {__version__}"


# What several verbs take, always under the same name.


def _model_flags(parser: Parser, engine: str = "auto") -> None:
    parser.add_argument("--engine", default=engine, help="ort, fake or auto (default: %(default)s)")
    parser.add_argument("--precision", help="one of the bundle's (default: its first, e.g. fp32)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; 0: all")


def _threshold_flag(parser: Parser) -> None:
    text = "least score of an instance, 0..1 (default: the bundle's)"
    parser.add_argument("--score-threshold", type=float, metavar="S", help=text)


def _json_flag(parser: Parser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")


def _check_json(args: Arguments) -> None:
    """Refuse a --json that can't be written before hours of work, not after them."""
    path: Path | None = getattr(args, "json", None)
    if path is None:
        return
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(
            f"got --json {str(path)!r}; wanted a file in a folder that can be written; "
            "make the folder or choose another"
        )


def _write_json(args: Arguments, report: Mapping[str, Any]) -> None:
    """Write the report to --json, whole or not at all."""
    if args.json is None:
        return
    part = args.json.with_name(args.json.name + ".part")
    try:
        part.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
        part.replace(args.json)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(
            f"got {error.strerror} while writing {str(args.json)!r}; wanted a file; choose another"
        ) from None


def _size_wh(text: str) -> tuple[int, int]:
    """Width and height from ``640x480``."""
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"got {text!r}; wanted WIDTHxHEIGHT; write e.g. 640x480")
    return int(width), int(height)


# The verbs.


def _doctor_arguments(parser: Parser) -> None:
    _json_flag(parser)


def _doctor(args: Arguments) -> int:
    from edgeseg.doctor import report, table

    found = report()
    print(table(found))
    _write_json(args, found)
    return 0


def _eval_arguments(parser: Parser) -> None:
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL, help="bundle name or folder")
    parser.add_argument("--split", default="test", help="test, val, ... (default: %(default)s)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="default: $EDGESEG_DATA")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="first N pictures only")
    _model_flags(parser, engine="ort")
    _json_flag(parser)


def _eval(args: Arguments) -> int:
    from edgeseg.evaluate import evaluate, table

    report = evaluate(
        args.model,
        args.data,
        split=args.split,
        precisions=(args.precision or "fp32").split(","),
        engine=args.engine,
        threads=args.threads,
        limit=args.limit,
    )
    print(table(report))
    _write_json(args, report)
    return 0


def _later_arguments(parser: Parser) -> None:
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)


def _later(args: Arguments) -> int:
    raise MissingPartError(
        f"got verb {args.verb!r}, which this version does not have yet; wanted another; "
        "see 'edgeseg --help' and the CHANGELOG"
    )


_EXPORT = ("torch", "onnx", "safetensors")
_TRAIN = ("torch", "scipy", "safetensors")
VERBS: dict[str, Verb] = {
    "doctor": Verb("say what is installed here and what is missing", _doctor_arguments, _doctor),
    "eval": Verb("COCO mask AP of a bundle on a dataset", _eval_arguments, _eval),
    "quantize": Verb("make INT8 of a bundle (arrives later)", _later_arguments, _later),
    "build": Verb("make a TensorRT engine of a bundle (arrives later)", _later_arguments, _later),
}
