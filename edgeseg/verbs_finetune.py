"""The verb ``train`` with ``--init``: your own classes, from a trained network to a bundle."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgeseg.errors import InputError, missing
from edgeseg.flags import Arguments, Parser, write_json

HELP = """\
from nothing, a network with its checkpoint (then: edgeseg export runs/nano/best.pt):
  edgeseg train --data data --out runs/nano --hours 3

your own classes, from a trained network, with a bundle ready to run (see docs/own-classes.md):
  edgeseg train --data my --check-only
  edgeseg train --data my --init fastinst-nano --out runs/mine
  edgeseg run VIDEO --model runs/mine --video masks.mp4

another network, with what fits of a trained one:
  edgeseg train --data data --variant knet-nano --init fastinst-nano --out runs/knet --hours 3

INT8 lost accuracy, and neither other ranges nor float layers help (see docs/int8.md):
  edgeseg train --data data --init runs/mine --qat --out runs/mine-qat

my is a folder with train/ and val/ (SPLIT/annotations.json, SPLIT/images), or one COCO file such as
my/coco.json beside its pictures, of which a fifth is held out for validation.
"""


def finetune_arguments(parser: Parser) -> None:
    """The flags that only fine-tuning takes, and examples."""
    from argparse import RawDescriptionHelpFormatter

    parser.formatter_class = RawDescriptionHelpFormatter
    parser.epilog = HELP
    group = parser.add_argument_group("fine-tuning")
    text = "begin with a bundle (fastinst-nano, or a folder) or best.pt; --out is the new bundle; "
    text += "with --variant: what fits of it, and --out is as without --init"
    group.add_argument("--init", metavar="MODEL", help=text)
    text = "most time of training (default: 15); it ends sooner where AP no longer rises"
    group.add_argument("--minutes", type=float, metavar="M", help=text)
    text = "looks at the validation part without a rise of AP before the end begins (default: 3)"
    group.add_argument("--patience", type=int, metavar="N", help=text)
    group.add_argument("--overwrite", action="store_true", help="replace an older bundle there")
    text = "train with the rounding that INT8 brings"
    parser.add_argument("--qat", action="store_true", help=text)
    text = "tell what is wrong with the dataset, and stop"
    parser.add_argument("--check-only", action="store_true", help=text)


def check_only(args: Arguments, data: Path) -> int:
    """Check a dataset for the input size that training would have, and stop."""
    from edgeseg.train.initial import read_start
    from edgeseg.train.loop import TrainConfig
    from edgeseg.train.source import open_source

    usual = TrainConfig.size_hw if args.init is None else read_start(args.init).input_hw
    open_source(data, print, args.size_hw or usual)
    print("the dataset can be used")
    return 0


def finetune(args: Arguments, data: Path) -> int:
    """Train from ``--init`` and say how to run the result."""
    from edgeseg.train.finetune import FinetuneConfig
    from edgeseg.train.finetune import finetune as run

    config = FinetuneConfig(data=data, init=args.init, out=args.out, **_given(args))
    report = run(config)
    test = data / "test" / "annotations.json"
    if test.is_file():
        print(f"on unseen pictures: edgeseg eval {args.out} --data {data} --split test")
    best = report["val"]["int8"]["AP"] or 0.0
    print(
        f"AP {best:.3f} on the validation part; try it: "
        f"edgeseg run VIDEO --model {args.out} --video masks.mp4"
    )
    write_json(args, report)
    return 0


def _given(args: Arguments) -> dict[str, Any]:
    names = ("size_hw", "minutes", "batch", "learning_rate", "repaint", "seed", "patience")
    named = {name: getattr(args, name) for name in names}
    if args.hours is not None:
        named["minutes"] = 60 * args.hours
    given = {name: value for name, value in named.items() if value is not None}
    return {"overwrite": args.overwrite, "qat": args.qat, **given}


def check_flags(args: Arguments) -> None:
    """Refuse flags that contradict each other, and a missing part, before the work."""
    if args.init is None or args.variant is not None:
        for name in ("minutes", "patience"):
            if getattr(args, name) is not None:
                raise InputError(
                    f"got --{name} without fine-tuning; wanted --init MODEL and no --variant with "
                    "it; add --init fastinst-nano, or use --hours"
                )
        return
    if find_spec("onnx") is None:
        raise missing("onnx", "export")
    if args.hours is not None and args.minutes is not None:
        raise InputError("got --hours and --minutes; wanted one of them; leave the other out")
