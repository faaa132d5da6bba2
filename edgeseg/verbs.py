"""The verbs of the robot: each imports its own module on use."""

from __future__ import annotations

import os
from pathlib import Path

from edgeseg.flags import (
    DEFAULT_MODEL,
    Arguments,
    Parser,
    Verb,
    json_flag,
    model_flags,
    settings,
    threshold_flag,
    write_json,
)


def _doctor(args: Arguments) -> int:
    from edgeseg.doctor import report, table

    found = report()
    print(table(found))
    write_json(args, found)
    return 0


def _run_arguments(parser: Parser) -> None:
    from edgeseg.config import leaves

    text = "a video, a folder of pictures, a picture, a bag (.mcap, .db3, folder), or 'synthetic'"
    parser.add_argument("camera.source", metavar="SOURCE", nargs="?", help=text)
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings as YAML; flags win")
    for leaf in leaves():
        if leaf.name != "camera.source":
            parser.add_argument(leaf.flag, dest=leaf.name, metavar="VALUE", help=leaf.help)
    json_flag(parser)


def _run(args: Arguments) -> int:
    from edgeseg.config import Settings, leaves, read_settings
    from edgeseg.run import run, speed_table

    words = vars(args)
    given = {one.name: words[one.name] for one in leaves() if words[one.name] is not None}
    settings = (read_settings(args.config) if args.config else Settings()).changed(given)
    report = run(settings, config=args.config, json=args.json)
    print(report["ran"], speed_table(report), *report["outputs"], sep="\n")
    write_json(args, report)
    return int(report["exit_code"])


def _demo_arguments(parser: Parser) -> None:
    text = "folder for masks.mp4 and masks.jsonl (default: %(default)s)"
    parser.add_argument("--out", default="out/demo", metavar="DIR", help=text)
    text = "bundle name or folder (default: %(default)s)"
    parser.add_argument("--model", default=DEFAULT_MODEL, help=text)
    model_flags(parser)
    threshold_flag(parser)
    json_flag(parser)


def _demo(args: Arguments) -> int:
    from edgeseg.demo import demo, table

    report = demo(args.out, model=args.model, json=args.json, **settings(args))
    print(table(report))
    write_json(args, report)
    return 0


def _bench_arguments(parser: Parser) -> None:
    text = "bundles, e.g. one per input size (default: fastinst-nano)"
    parser.add_argument("models", nargs="*", default=[DEFAULT_MODEL], metavar="MODEL", help=text)
    text = "frames of the memory test (default: %(default)s; the full claim: 10000)"
    parser.add_argument("--frames", type=int, default=600, metavar="N", help=text)
    text = "a few frames of everything, to see that it runs; the numbers are worth nothing"
    parser.add_argument("--quick", action="store_true", help=text)
    text = (
        "measure each engine and precision of the first MODEL; 'auto' is the fastest from then on"
    )
    parser.add_argument("--choose", action="store_true", help=text)
    text = "measure what the ROS 2 node adds to the first MODEL; in a sourced ROS 2 workspace"
    parser.add_argument("--ros", action="store_true", help=text)
    model_flags(parser, engine="ort", threads=1)
    json_flag(parser)


def _choose(args: Arguments) -> int:
    from edgeseg.bench import CLIP
    from edgeseg.bench_precision import choice_table, choose

    report = choose(args.models[0], CLIP)
    print(choice_table(report))
    write_json(args, report)
    return 0


def _ros(args: Arguments) -> int:
    from edgeseg.bench_ros import bench_ros

    names = ("engine", "precision", "threads", "quick", "json")
    return bench_ros(args.models[0], **{name: getattr(args, name) for name in names})


def _bench(args: Arguments) -> int:
    if args.choose:
        return _choose(args)
    if args.ros:
        return _ros(args)
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
    write_json(args, report)
    return 0


def _eval_arguments(parser: Parser) -> None:
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL, help="bundle name or folder")
    parser.add_argument("--split", default="test", help="test, val, ... (default: %(default)s)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="default: $EDGESEG_DATA")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="first N pictures only")
    model_flags(parser, engine="ort")
    json_flag(parser)


def _eval(args: Arguments) -> int:
    from edgeseg.evaluate import evaluate, table

    report = evaluate(
        args.model,
        args.data,
        split=args.split,
        precisions=args.precision.split(",") if args.precision else None,
        engine=args.engine,
        threads=args.threads,
        limit=args.limit,
    )
    print(table(report))
    write_json(args, report)
    return 0


VERBS: dict[str, Verb] = {
    "doctor": Verb("say what is installed here and what is missing", json_flag, _doctor),
    "run": Verb("segment a video, a folder, a picture or a bag", _run_arguments, _run),
    "demo": Verb("segment the packaged clip: how fast, how well", _demo_arguments, _demo),
    "bench": Verb("measure speed and memory on this machine", _bench_arguments, _bench),
    "eval": Verb("COCO mask AP of a bundle on a dataset", _eval_arguments, _eval),
}
