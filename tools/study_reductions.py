#!/usr/bin/env python3
"""What each reduction of K-Net costs and saves, from R50 at full width down to knet-nano.

    python tools/study_reductions.py cost WORK                     GMAC, parameters, milliseconds
    python tools/study_reductions.py stages CHECKPOINT --data DIR  AP of a trained network's stages
    python tools/study_reductions.py train WORK --data DIR --init BUNDLE [--only STEP ...]

Each writes its part of docs/results/reductions.json; docs/models.md shows it. ``cost`` needs no
trained weights: it makes a bundle of every step in the folder WORK, once, and times all of them in
turns in one process. ``train`` gives the steps equally many pictures, far fewer than a full
training has; it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from describe_model import macs
from tqdm import tqdm

from edgeseg import bundle as bundles
from edgeseg import record, registry
from edgeseg.bench_precision import in_turns
from edgeseg.doctor import machine
from edgeseg.engines.base import Engine
from edgeseg.export.int8 import CLIP, quantize
from edgeseg.export.pack import pack, read_trained, spec_of
from edgeseg.segmenter import Segmenter
from edgeseg.train.data import CocoDataset, Loader
from edgeseg.train.initial import read_start
from edgeseg.train.loop import Run, TrainConfig
from edgeseg.train.measure import TrainingEngine, mask_ap
from edgeseg.train.source import open_source
from edgeseg.zoo.knet import KNet, KNetConfig

RECORD = Path(__file__).resolve().parent.parent / "docs" / "results" / "reductions.json"
CLASSES = ("box", "ball", "can", "bottle", "mug", "bowl", "brick", "tube")
INPUT_HW = (240, 320)
NANO = "knet-nano"
SOME = 4
"""Pictures to calibrate on: enough for the speed of INT8, not for its accuracy."""


@dataclass(frozen=True)
class Step:
    """One change of the network.

    Attributes:
        name: of its folder and in the record.
        what: for the table.
        changes: settings of `KNetConfig`.
    """

    name: str
    what: str
    changes: dict[str, Any] = field(default_factory=dict)


START = Step("r50", "K-Net R50, three stages", {"num_classes": 8, "size_divisibility": 1})
TAKEN = (
    Step("width-128", "width 256 to 128", {"hidden_dim": 128, "ffn_dim": 512}),
    Step("light", "no stride 4 in the pyramid", {"light": True}),
    Step("bn", "batch norm, which folds, for group norm", {"norm": "BN"}),
    Step("r18d", "ResNet-18-d for ResNet-50", {"backbone": "resnet18d", "depth": 18}),
    Step("half", "half as many channels in it", {"width": 32}),
    Step("width-96", "width 128 to 96", {"hidden_dim": 96, "ffn_dim": 256, "num_heads": 4}),
    Step("kernels-50", "100 to 50 kernels", {"num_kernels": 50}),
    Step(NANO, "last masks at stride 4, 64 channels: knet-nano", {"fine_dim": 64}),
)
REFUSED = (
    Step("stages-2", "two stages", {"num_stages": 2}),
    Step("stages-1", "one stage", {"num_stages": 1}),
    Step("stride-4", "all at stride 4", {"feature_stride": 4, "light": False, "fine_dim": 0}),
)


def networks() -> dict[str, KNetConfig]:
    """Settings after each step; those of `REFUSED` are knet-nano's with one more change."""
    config = replace(KNetConfig(), **START.changes)
    found = {START.name: config}
    for step in TAKEN:
        found[step.name] = config = replace(config, **step.changes)
    return found | {step.name: replace(config, **step.changes) for step in REFUSED}


# ---------------------------------------------------------------------------------------- cost
def make(name: str, config: KNetConfig, folder: Path) -> None:
    """The bundle of a step, with random weights, INT8 and FP32."""
    if (folder / name).is_dir():
        return
    torch.manual_seed(0)
    network = KNet(config).eval()
    floating = folder / f"{name}-fp32"
    spec = spec_of(network, name, CLASSES, input_hw=INPUT_HW, max_instances=config.num_kernels)
    pack(network, spec, floating, overwrite=True)
    quantize(floating, folder / name, images=CLIP, limit=SOME)


def cost(args: argparse.Namespace) -> dict[str, Any]:
    """Multiply-accumulates, parameters and p50 of every step, on one thread."""
    configs = networks()
    for name, config in tqdm(configs.items(), desc="bundles", unit="network"):
        make(name, config, args.work)
    engine = registry.resolve("engine", "ort")
    engines: dict[tuple[str, str], Engine] = {}
    for name in configs:
        folder = args.work / name
        for precision in ("fp32", "int8"):
            loaded = engine.load(folder, bundles.read(folder), precision, 1)
            engines[name, precision] = loaded
    load = os.getloadavg()[0]
    times = {(row["model"], row["precision"]): row for row in in_turns(engines, CLIP, args.rounds)}
    rows = []
    for step in (START, *TAKEN, *REFUSED):
        graph = onnx.load(args.work / step.name / "model.onnx", load_external_data=False)
        parameters = sum(one.numel() for one in KNet(configs[step.name]).parameters())
        rows.append(
            {
                **{"step": step.name, "what": step.what, "taken": step not in REFUSED},
                **{"macs": macs(graph), "parameters": parameters},
                **{f"ms_{p}": times[step.name, p]["p50_ms"] for p in ("fp32", "int8")},
            }
        )
    return {
        "input_size": "{1}x{0}".format(*INPUT_HW),
        "rounds": args.rounds,
        "load_average": round(load, 2),
        "machine": machine(),
        "rows": rows,
    }


# -------------------------------------------------------------------------------------- stages
def until(network: Any, stages: int) -> KNet:
    """The network that ends with one of the first stages; its masks are at stride 8."""
    shorter = KNet(replace(network.config, num_stages=stages, fine_dim=0))
    known = network.state_dict()
    shorter.load_state_dict({key: known[key] for key in shorter.state_dict()})
    return shorter.eval()


def stages(args: argparse.Namespace) -> dict[str, Any]:
    """AP of a trained network, and of what its stages predict on the way."""
    network, spec = read_trained(args.checkpoint)
    data = CocoDataset(args.data / args.split)
    count: int = network.config.num_stages  # type: ignore[union-attr, assignment]
    rows = []
    for last in range(1, count + 1):
        shown: Any = until(network, last) if last < count else network
        described = replace(spec, mask_stride=shown.config.mask_stride)
        deploy = shown.deployed(spec.max_instances).eval()
        engine = TrainingEngine(deploy, described, torch.device("cpu"))
        found = mask_ap(Segmenter(engine, score_threshold=0), data, args.limit)
        made_at = 4 if shown.config.fine_dim else shown.config.feature_stride  # then doubled
        row = {"stage": last, "mask_stride": made_at}
        rows.append(row | {name: found[name] for name in ("AP", "AP50", "AP75")})
        print(rows[-1], flush=True)
    return {
        "model": args.checkpoint.parent.name,
        "split": args.split,
        "images": min(len(data), args.limit or len(data)),
        "rows": rows,
    }


# --------------------------------------------------------------------------------------- train
def train(args: argparse.Namespace) -> dict[str, Any]:
    """AP after equally many pictures, from the same start as far as it fits each network."""
    source, configs, start = open_source(args.data), networks(), read_start(args.init)
    for name in args.only:
        settings = TrainConfig(
            args.data, args.work / f"{name}-training", variant="", learning_rate=args.rate, ema=0.99
        )
        run = Run(settings, source, replace(start, name=name, family="knet", shape=configs[name]))
        print(run.taken.text() if run.taken else "", flush=True)
        fit(run, args.pictures)
    curves = {
        name: json.loads((args.work / f"{name}-training" / "curve.json").read_text("utf-8"))
        for name in configs
        if (args.work / f"{name}-training" / "curve.json").is_file()
    }
    ended = {name: one["curve"][-1] for name, one in curves.items() if one["curve"]}
    return {
        "start": start.name if Path(args.init).suffix == "" else Path(args.init).parent.name,
        "learning_rate": args.rate,
        "pictures": args.pictures,
        "val_images": len(source.val),
        "rows": {
            name: {"AP": row["ema_AP"], "raw_AP": row["raw_AP"]} for name, row in ended.items()
        },
    }


def fit(run: Run, pictures: int) -> None:
    """Train with so many pictures; state and result are in the run's folder."""
    run.config.out.mkdir(parents=True, exist_ok=True)
    run.resume()
    if run.curve:
        return
    run.network.train()
    config = run.config
    loader = Loader(run.train_data, run.augmentation(0), config.batch, config.seed + run.step)
    bar = tqdm(total=pictures, initial=run.images, desc=run.name, unit="picture", disable=None)
    while run.images < pictures:
        progress = run.images / pictures
        loader.augmentation = run.augmentation(progress)
        run.train_step(*next(loader), progress)
        run.step += 1
        run.images += config.batch
        bar.update(config.batch)
        if run.step % 100 == 0:
            run.save()
    loader.close()
    run.look(len(run.val_data))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=RECORD, metavar="JSON")
    verbs = parser.add_subparsers(dest="part", required=True)
    one = verbs.add_parser("cost", help="GMAC, parameters and times of every step")
    one.add_argument("work", type=Path, help="folder for the bundles")
    one.add_argument("--rounds", type=int, default=20, help="runs of each network")
    one.set_defaults(run=cost)
    one = verbs.add_parser("stages", help="AP of the stages of a trained network")
    one.add_argument("checkpoint", type=Path, help="best.pt of edgeseg train")
    one.add_argument("--data", type=Path, required=True, help="folder with the split")
    one.add_argument("--split", default="test")
    one.add_argument("--limit", type=int, default=0, help="pictures; 0: all")
    one.set_defaults(run=stages)
    one = verbs.add_parser("train", help="AP of steps after short trainings")
    one.add_argument("work", type=Path, help="folder for the trainings")
    one.add_argument("--data", type=Path, required=True, help="with the splits train and val")
    one.add_argument("--init", default="fastinst-nano", help="bundle or best.pt to begin with")
    one.add_argument("--only", nargs="+", default=list(networks()), metavar="STEP")
    one.add_argument("--rate", type=float, default=1.5e-3, help="peak of the learning rate")
    one.add_argument("--pictures", type=int, default=20_000, metavar="N", help="for each step")
    one.set_defaults(run=train)
    args = parser.parse_args(arguments)
    record.check_target(args.out)
    made = args.run(args)
    known = json.loads(args.out.read_text("utf-8")) if args.out.exists() else {}
    record.write(args.out, {**known, args.part: made})


if __name__ == "__main__":
    main()
