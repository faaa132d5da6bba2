"""The ``edgeseg`` command: verbs, each importing its own module on use."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg import record
from edgeseg.errors import BASE_INSTALL, EdgesegError, MissingPartError, missing
from edgeseg.signals import exit_code, orderly_end

if TYPE_CHECKING:
    from edgeseg.bundle import ModelSpec

DEFAULT_MODEL = "fastinst-nano"
EPILOG = """\
start here:
  edgeseg demo                              segment the packaged clip: how fast, how well
  edgeseg run video.mp4 --video masks.mp4   segment your own video
  edgeseg VERB --help                       what a verb takes

exit codes: 0 ok, 1 a check failed, 2 a mistake, 3 a part is missing, 130 Ctrl-C, 143 SIGTERM
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


@orderly_end()
def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: words after ``edgeseg``; None takes those of the process.

    Returns:
        The exit code: 0 ok, others as `EPILOG` tells.
    """
    parser = _parser()
    args, strange = parser.parse_known_args(argv)
    verb = VERBS[args.verb]
    if strange and verb.action is not _later:
        parser.error(f"unrecognized arguments: {' '.join(strange)}")
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


def _model_flags(parser: Parser, engine: str = "auto", threads: int = 0) -> None:
    text = "ort, fake, eager (default: %(default)s)"
    parser.add_argument("--engine", default=engine, metavar="NAME", help=text)
    parser.add_argument("--precision", help="one of the bundle's (default: its first, e.g. fp32)")
    text = "CPU threads of the network; 0: all (default: %(default)s)"
    parser.add_argument("--threads", type=int, default=threads, metavar="N", help=text)


def _threshold_flag(parser: Parser) -> None:
    text = "least score of an instance, 0..1 (default: the bundle's)"
    parser.add_argument("--score-threshold", type=float, metavar="S", help=text)


def _settings(args: Arguments) -> dict[str, Any]:
    """The flags of `_model_flags` and `_threshold_flag` as `load` takes them."""
    return {
        name: getattr(args, name) for name in ("engine", "precision", "threads", "score_threshold")
    }


def _json_flag(parser: Parser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")


def _write_json(args: Arguments, report: Mapping[str, Any]) -> None:
    if args.json is not None:
        record.write(args.json, report)


def _size_hw(text: str) -> tuple[int, int]:
    """Height and width from ``640x480``, which people write with the width first."""
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"got {text!r}; wanted WIDTHxHEIGHT; write e.g. 640x480")
    return int(height), int(width)


def _bundle_flags(parser: Parser) -> None:
    """What the verbs that write a bundle take."""
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder to make")
    text = "size of the network's input (default: the source's)"
    parser.add_argument("--input-size", type=_size_hw, metavar="WIDTHxHEIGHT", help=text)
    text = "most objects in a picture (default: the source's)"
    parser.add_argument("--max-instances", type=int, metavar="N", help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace an older bundle there")
    _json_flag(parser)


def _bundle_settings(args: Arguments) -> dict[str, Any]:
    """The flags of `_bundle_flags` that were given, as the export half takes them."""
    named = {"input_hw": args.input_size, "max_instances": args.max_instances}
    given = {name: value for name, value in named.items() if value is not None}
    return {"overwrite": args.overwrite, **given}


def _wrote(args: Arguments, spec: ModelSpec) -> int:
    """Say which bundle was written."""
    height, width = spec.input_hw
    print(f"bundle {args.out}: {spec.family}, {width}x{height}, {len(spec.classes)} classes")
    print(f"next: edgeseg check {args.out}")
    _write_json(args, {"out": str(args.out), **asdict(spec)})
    return 0


def _doctor(args: Arguments) -> int:
    from edgeseg.doctor import report, table

    found = report()
    print(table(found))
    _write_json(args, found)
    return 0


def _run_arguments(parser: Parser) -> None:
    from edgeseg.config import leaves

    text = "a video, a folder of pictures, a picture, a bag (.mcap, .db3, folder), or 'synthetic'"
    parser.add_argument("camera.source", metavar="SOURCE", nargs="?", help=text)
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings as YAML; flags win")
    for leaf in leaves():
        if leaf.name != "camera.source":
            parser.add_argument(leaf.flag, dest=leaf.name, metavar="VALUE", help=leaf.help)
    _json_flag(parser)


def _run(args: Arguments) -> int:
    from edgeseg.config import Settings, leaves, read_settings
    from edgeseg.run import run, speed_table

    words = vars(args)
    given = {one.name: words[one.name] for one in leaves() if words[one.name] is not None}
    settings = (read_settings(args.config) if args.config else Settings()).changed(given)
    report = run(settings, config=args.config, json=args.json)
    print(report["ran"], speed_table(report), *report["outputs"], sep="\n")
    _write_json(args, report)
    return int(report["exit_code"])


def _demo_arguments(parser: Parser) -> None:
    text = "folder for masks.mp4 and masks.jsonl (default: %(default)s)"
    parser.add_argument("--out", default="out/demo", metavar="DIR", help=text)
    text = "bundle name or folder (default: %(default)s)"
    parser.add_argument("--model", default=DEFAULT_MODEL, help=text)
    _model_flags(parser)
    _threshold_flag(parser)
    _json_flag(parser)


def _demo(args: Arguments) -> int:
    from edgeseg.demo import demo, table

    report = demo(args.out, model=args.model, json=args.json, **_settings(args))
    print(table(report))
    _write_json(args, report)
    return 0


def _bench_arguments(parser: Parser) -> None:
    text = "bundles, e.g. one per input size (default: fastinst-nano)"
    parser.add_argument("models", nargs="*", default=[DEFAULT_MODEL], metavar="MODEL", help=text)
    text = "frames of the memory test (default: %(default)s; the full claim: 10000)"
    parser.add_argument("--frames", type=int, default=600, metavar="N", help=text)
    text = "a few frames of everything, to see that it runs; the numbers are worth nothing"
    parser.add_argument("--quick", action="store_true", help=text)
    _model_flags(parser, engine="ort", threads=1)
    _json_flag(parser)


def _bench(args: Arguments) -> int:
    # One thread for numpy too; it reads this when it is first imported, which is below.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    from edgeseg.bench import bench, table

    few = {"frames": 10, "memory_frames": 1, "rounds": 1}
    report = bench(
        args.models,
        engine=args.engine,
        precision=args.precision,
        threads=args.threads,
        **(few if args.quick else {"memory_frames": args.frames}),
    )
    print(table(report))
    _write_json(args, report)
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


def _export_arguments(parser: Parser) -> None:
    text = "bundle, or best.pt of 'edgeseg train'"
    parser.add_argument("source", metavar="MODEL_OR_CHECKPOINT", help=text)
    _bundle_flags(parser)


def _export(args: Arguments) -> int:
    from edgeseg.export.pack import export_bundle

    return _wrote(args, export_bundle(args.source, args.out, **_bundle_settings(args)))


def _check_arguments(parser: Parser) -> None:
    parser.add_argument("bundle", help="bundle name or folder")
    _model_flags(parser, engine="ort")
    _json_flag(parser)


def _check(args: Arguments) -> int:
    from edgeseg.export.check import check

    settings = {name: getattr(args, name) for name in ("engine", "precision", "threads")}
    report = check(args.bundle, **settings)
    print(report.table())
    print("agrees" if report.ok else "does NOT agree: export the bundle again, or report it")
    _write_json(args, report.to_dict())
    return 0 if report.ok else 1


def _train_arguments(parser: Parser) -> None:
    text = "COCO-format splits train and val (default: $EDGESEG_DATA)"
    parser.add_argument("--data", type=Path, metavar="DIR", help=text)
    text = "folder for last.pt, best.pt and curve.json; goes on from there when called again"
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=text)
    parser.add_argument("--variant", metavar="NAME", help="network (default: nano)")
    parser.add_argument("--hours", type=float, metavar="H", help="time budget (default: 1.5)")
    parser.add_argument("--batch", type=int, metavar="N", help="pictures a step (default: 16)")
    parser.add_argument("--seed", type=int, metavar="N", help="of weights, order, augmentation")
    _json_flag(parser)


def _train(args: Arguments) -> int:
    from edgeseg.evaluate import default_dataset
    from edgeseg.train.loop import TrainConfig, train

    names = ("variant", "hours", "batch", "seed")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    config = TrainConfig(data=args.data or default_dataset(), out=args.out, **given)
    report = train(config)
    print(f"best weights: {args.out / 'best.pt'}; next: edgeseg export {args.out / 'best.pt'}")
    _write_json(args, report)
    return 0


def _convert_arguments(parser: Parser) -> None:
    text = "official .pth (detectron2) or .safetensors"
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=text)
    parser.add_argument("--family", required=True, help="fastinst")
    text = "r50-d1, r50-d3, r50vd-dcn-d1, r50vd-dcn-d3 or r101-d3"
    parser.add_argument("--variant", required=True, metavar="NAME", help=text)
    _bundle_flags(parser)


def _convert(args: Arguments) -> int:
    from edgeseg.export.checkpoints import convert

    settings = _bundle_settings(args)
    return _wrote(args, convert(args.checkpoint, args.family, args.variant, args.out, **settings))


def _later_arguments(parser: Parser) -> None:
    parser.add_argument("rest", nargs="*")


def _later(args: Arguments) -> int:
    raise MissingPartError(
        f"got verb {args.verb!r}, which this version does not have yet; wanted another; "
        "see 'edgeseg --help' and the CHANGELOG"
    )


_EXPORT = ("torch", "onnx", "safetensors")
_TRAIN = ("torch", "scipy", "safetensors")
VERBS: dict[str, Verb] = {
    "doctor": Verb("say what is installed here and what is missing", _json_flag, _doctor),
    "run": Verb("segment a video, a folder, a picture or a bag", _run_arguments, _run),
    "demo": Verb("segment the packaged clip: how fast, how well", _demo_arguments, _demo),
    "bench": Verb("measure speed and memory on this machine", _bench_arguments, _bench),
    "eval": Verb("COCO mask AP of a bundle on a dataset", _eval_arguments, _eval),
    "export": Verb("write a bundle for the robot", _export_arguments, _export, "export", _EXPORT),
    "quantize": Verb("make INT8 of a bundle (arrives later)", _later_arguments, _later),
    "build": Verb("make a TensorRT engine of a bundle (arrives later)", _later_arguments, _later),
    "check": Verb(
        "compare a bundle with its torch network", _check_arguments, _check, "export", _EXPORT
    ),
    "train": Verb("train a network on a dataset", _train_arguments, _train, "train", _TRAIN),
    "convert": Verb(
        "make a bundle of an official checkpoint", _convert_arguments, _convert, "export", _EXPORT
    ),
}
