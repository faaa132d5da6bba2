"""The ``edgeseg`` command: words in, exit code out. The verbs are in `verbs` and `verbs_train`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from edgeseg import record, verbs, verbs_train
from edgeseg.errors import BASE_INSTALL, EdgesegError, MissingPartError, missing
from edgeseg.flags import Parser
from edgeseg.signals import exit_code, orderly_end

VERBS = verbs.VERBS | verbs_train.VERBS
EPILOG = """\
start here:
  edgeseg demo                              segment the packaged clip: how fast, how well
  edgeseg run video.mp4 --video masks.mp4   segment your own video
  edgeseg VERB --help                       what a verb takes

exit codes: 0 ok, 1 a check failed, 2 a mistake, 3 a part is missing, 130 Ctrl-C, 143 SIGTERM
"""


@orderly_end()
def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: words after ``edgeseg``; None takes those of the process.

    Returns:
        The exit code: 0 ok, others as `EPILOG` tells.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    verb = VERBS[args.verb]
    try:
        if verb.lacking:
            raise missing(verb.lacking[0], verb.extra)
        if getattr(args, "json", None):
            record.check_target(args.json)
        code = verb.action(args)
        sys.stdout.flush()
        return code
    except EdgesegError as error:
        print(f"edgeseg {args.verb}: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if (error.name or "edgeseg").startswith("edgeseg"):
            raise
        advice = f"wanted the base install; run: {BASE_INSTALL}"
        print(f"edgeseg {args.verb}: got no module {error.name!r}; {advice}", file=sys.stderr)
        return MissingPartError.exit_code
    except KeyboardInterrupt as interruption:
        return exit_code(interruption)
    except BrokenPipeError:
        # The reader has left (`edgeseg ... | head`): keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        advice = "wanted to read or write it; check the path, its permissions and the space"
        print(f"edgeseg {args.verb}: got {error}; {advice}", file=sys.stderr)
        return EdgesegError.exit_code


def _parser() -> Parser:
    from edgeseg import __version__

    parser = Parser(
        prog="edgeseg",
        description="Frame in, masks out: real-time instance segmentation for robots.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edgeseg {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, verb in VERBS.items():
        one = verbs.add_parser(name, help=verb.help, description=verb.help)
        verb.arguments(one)
    return parser
