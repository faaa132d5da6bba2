"""The ``edgeseg`` command: verbs, each importing its own module on use."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeseg.errors import EdgesegError

EPILOG = """\
start here:
  edgeseg demo                                segment the packaged clip and say how fast and how well
  edgeseg run video.mp4 --video masks.mp4     segment your own video
  edgeseg VERB --help                         what a verb takes

exit codes: 0 ok, 1 a check failed, 2 a mistake in what was asked, 3 a part is missing
"""


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
    arguments: Callable[[argparse.ArgumentParser], None]
    action: Callable[[argparse.Namespace], int]
    extra: str = ""
    modules: tuple[str, ...] = ()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: words after ``edgeseg``; None takes those of the process.

    Returns:
        The exit code: 0 ok, 1 a check failed, 2 a user's mistake, 3 a part is missing.
    """
    args = _parser().parse_args(argv)
    try:
        return _run_verb(args)
    except EdgesegError as error:
        print(f"edgeseg {args.verb}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has left (`edgeseg ... | head`): keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run_verb(args: argparse.Namespace) -> int:
    verb = VERBS[args.verb]
    code = verb.action(args)
    sys.stdout.flush()
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeseg",
        description="Frame in, masks out: real-time instance segmentation for robots.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, verb in VERBS.items():
        one = verbs.add_parser(name, help=verb.summary, description=verb.summary)
        verb.arguments(one)
    return parser


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def _doctor(args: argparse.Namespace) -> int:
    from edgeseg.doctor import machine

    for key, value in machine().items():
        print(f"{key:12} {value}")
    return 0


VERBS: dict[str, Verb] = {
    "doctor": Verb("say what is installed here and what is missing", _doctor_arguments, _doctor),
}
