"""Training: a time budget in, a checkpoint and its curve out; can be stopped and resumed.

Schedule: AdamW, short warm-up, cosine to nearly zero; small crops first (three times the pictures
per second), full size after. The budget is time, not steps, so that a run ends when it was told
to, on any machine.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from edgeseg.errors import InputError, unknown
from edgeseg.export.network import check_size
from edgeseg.train import state as states
from edgeseg.train.data import Augmentation, Loader
from edgeseg.train.fit import Fitted
from edgeseg.train.initial import Start, check_frozen, take
from edgeseg.train.measure import spec_of, validate
from edgeseg.train.objectives import VARIANTS, build_network, objective
from edgeseg.train.rounding import Int8Rounding, stays_float
from edgeseg.train.source import Source, open_source
from edgeseg.train.stopping import shortened

Say = Callable[[str], None]
LEAST_CROP = 144
"""Pixels: below it the first phase would see too few cells for its queries."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run.

    Attributes:
        data: folder with the splits ``train`` and ``val`` (COCO format), or one COCO file.
        out: folder for ``last.pt``, ``best.pt`` and ``curve.json``.
        variant: network of `edgeseg.train.objectives.VARIANTS`; "" is that of the start.
        hours: time budget of the whole run, pauses between resumed parts not counted.
        size_hw: input size of the full-size phase, pixels; the first phase sees `crop_hw`.
        crop_share: share of the time spent in the first phase.
        batch: pictures per step.
        learning_rate: peak of AdamW's.
        warm_up: steps in which the rate rises to it.
        weight_decay: of matrices and kernels; none on norms, biases and embeddings.
        guided_from: share of the time after which FastInst's GT-mask-guided branch joins; 1 is
            never.
        ema: decay of the averaged weights per step.
        val_images: pictures of the validation split that are looked at during training.
        val_minutes: time between two looks.
        patience: looks without a rise of AP after which the end of the schedule begins; 0 is never.
        repaint: share of pictures whose objects and background are coloured anew, each on its own.
        qat: compute with the rounding of INT8, see `edgeseg.train.rounding`.
        seed: of weights, order and augmentation.
    """

    data: Path
    out: Path
    variant: str = "nano"
    hours: float = 1.5
    size_hw: tuple[int, int] = (240, 320)
    crop_share: float = 0.4
    batch: int = 16
    learning_rate: float = 1.5e-3
    warm_up: int = 150
    weight_decay: float = 0.05
    guided_from: float = 1.0
    ema: float = 0.998
    val_images: int = 150
    val_minutes: float = 8.0
    patience: int = 0
    repaint: float = 0.0
    qat: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        if self.variant and self.variant not in VARIANTS:
            raise unknown("variant", self.variant, VARIANTS)
        if not 0 < self.hours < math.inf or self.batch < 1:
            raise InputError(
                f"got {self.hours} hours and batches of {self.batch}; wanted both above 0; "
                "3 hours and 16 pictures are usual"
            )
        if not 0 <= self.repaint <= 1 or not 0 < self.learning_rate < 1:
            raise InputError(
                f"got a repaint share of {self.repaint} and a learning rate of "
                f"{self.learning_rate}; wanted both from 0 to 1; 0.4 and 0.0015 are usual"
            )

    @property
    def crop_hw(self) -> tuple[int, int]:
        """Input size of the first phase, pixels: 0.6 of the full one, a third of the work."""
        height, width = (16 * round(0.6 * side / 16) for side in self.size_hw)
        return (height, width) if min(height, width) >= LEAST_CROP else self.size_hw


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels only."""
    embeddings = {m.weight for m in network.modules() if isinstance(m, nn.Embedding)}
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in filter(lambda p: p.requires_grad, network.parameters()):
        groups[parameter.ndim > 1 and parameter not in embeddings].append(parameter)
    return [
        {"params": groups[True], "weight_decay": weight_decay},
        {"params": groups[False], "weight_decay": 0.0},
    ]


def learning_rate(progress: float, step: int, peak: float, warm_up: int = 150) -> float:
    """Warm-up over some steps, flat to 25 % of the time, cosine to 1 % at the end."""
    warm = min(1.0, (step + 1) / warm_up)
    fall = max(0.0, (progress - 0.25) / 0.75)
    return peak * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, fall))))


class Run:
    """One training run: network, averaged network, optimiser, and where they stand.

    Args:
        config: settings.
        source: the checked dataset; ``config.data`` is opened when left out.
        start: weights to begin with; random ones when left out.
    """

    def __init__(
        self, config: TrainConfig, source: Source | None = None, start: Start | None = None
    ) -> None:
        self.config = config
        torch.manual_seed(config.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        source = source or open_source(config.data, size_hw=config.size_hw)
        self.val_data = source.val
        classes = source.train.classes
        if start and not config.variant:
            network: Any = start.network(len(classes))
        else:
            network = build_network(config.variant, len(classes))
        check_size(network.config, config.size_hw, network.config.num_queries)
        self.name = config.variant or (start.name if start else "")
        self.taken = take(network, start, classes) if start else None
        check_frozen(network, self.taken, self.name)
        self.train_data = Fitted(source.train, spec_of(network, classes, config.size_hw))
        self.network = network.to(self.device, memory_format=torch.channels_last)
        self.average = deepcopy(self.network)
        self.objective = objective(network.family)
        self.optimiser = torch.optim.AdamW(
            parameter_groups(self.network, config.weight_decay),
            lr=config.learning_rate,
            fused=True,
        )
        self.step, self.images, self.seconds = 0, 0, 0.0
        self.curve: list[dict[str, Any]] = []
        self.best = -1.0
        self.counted_from = 0  # row of the curve from which patience counts
        self.fingerprint = states.fingerprint(source, config.size_hw, start)

    # ------------------------------------------------------------------------ state on disk
    def save(self) -> None:
        """Write ``last.pt`` under a temporary name, then rename it; write ``curve.json``."""
        state = {
            "model": self.average.state_dict(),
            "raw": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "family": self.network.family,
            "network": self.network.config.to_dict(),
            "classes": list(self.train_data.classes),
            "input_hw": list(self.config.size_hw),
            "position": [self.step, self.images, self.seconds, self.best],
            "curve": self.curve,
            "patience": [self.config.hours, self.counted_from],
            "fingerprint": self.fingerprint,
        }
        states.write(self.config.out / "last.pt", state)
        record = {
            "variant": self.name,
            "device": states.device_name(self.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "train_images": len(self.train_data),
            "config": {k: str(v) if isinstance(v, Path) else v for k, v in self._settings()},
            "curve": self.curve,
        }
        partial = self.config.out / "curve.json.part"
        partial.write_text(json.dumps(record, indent=1) + "\n")
        partial.replace(self.config.out / "curve.json")

    def _settings(self) -> list[tuple[str, Any]]:
        return [(k, v) for k, v in asdict(self.config).items() if k not in ("data", "out")]

    def resume(self) -> bool:
        """Go on from ``last.pt`` where there is one.

        Returns:
            Whether the data changed since. Then only the (averaged) weights are taken.

        Raises:
            BundleError: it is damaged, or of another network, other classes, size or start.
        """
        path = self.config.out / "last.pt"
        if not path.is_file():
            return False
        state = states.read(path)
        wanted = {
            "name": self.name,
            "network": self.network.config.to_dict(),
            "classes": list(self.train_data.classes),
            "fingerprint": self.fingerprint,
        }
        states.refuse_other(path, state, wanted)
        self.average.load_state_dict(state["model"])
        if state.get("fingerprint", self.fingerprint) != self.fingerprint:
            self.network.load_state_dict(state["model"])
            return True
        self.network.load_state_dict(state["raw"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.images, self.seconds, self.best = state["position"]
        self.curve = state["curve"]
        hours, counted_from = state.get("patience", (0.0, 0))
        self.counted_from = counted_from if hours == self.config.hours else len(self.curve)
        return False

    def shortened(self, budget_s: float) -> float:
        """A time budget, shortened where the curve is flat; see `edgeseg.train.stopping`.

        Rows of before a resume with another budget don't count: more time is there to be used.
        """
        return shortened(self.curve[self.counted_from :], budget_s, self.config.patience)

    # ------------------------------------------------------------------------------ training
    def augmentation(self, progress: float) -> Augmentation:
        """Crops round objects first, whole pictures after."""
        config = self.config
        if progress < config.crop_share:
            return Augmentation(config.crop_hw, (0.5, 1.3), focus=0.7, repaint=config.repaint)
        return Augmentation(config.size_hw, (0.65, 1.4), focus=0.3, repaint=config.repaint)

    def arithmetic(self, network: nn.Module) -> AbstractContextManager[Any]:
        """In which the network computes."""
        return Int8Rounding(stays_float(network)) if self.config.qat else nullcontext()

    def train_step(
        self, images: Tensor, targets: list[dict[str, Tensor]], progress: float
    ) -> float:
        """One step of AdamW and of the average; gives the loss."""
        config = self.config
        images = images.to(self.device)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(progress, self.step, config.learning_rate, config.warm_up)
        late = progress >= config.guided_from
        with torch.autocast(self.device.type, dtype=torch.bfloat16), self.arithmetic(self.network):
            losses = self.objective(self.network, self.network.normalise(images), targets, late)
        total = torch.stack(list(losses.values())).sum()
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        self._update_average()
        return total.item()

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        floating = [value.is_floating_point() for value in self.network.state_dict().values()]
        means, values = (
            [v for v, keep in zip(n.state_dict().values(), floating, strict=True) if keep]
            for n in (self.average, self.network)
        )
        torch._foreach_lerp_(means, values, 1 - decay)

    def look(self, count: int) -> dict[str, Any]:
        """Validation AP of raw and averaged weights, added to the curve; the best are kept."""
        config = self.config
        self.save()
        row: dict[str, Any] = {
            "minutes": round(self.seconds / 60, 1),
            "images_seen": self.images,
            "val_images": min(count, len(self.val_data)),
        }
        for name, network in (("raw", self.network), ("ema", self.average)):
            with self.arithmetic(network):
                result = validate(network, self.val_data, count, config.size_hw)
            row |= {f"{name}_{key}": round(result[key] or 0.0, 4) for key in ("AP", "AP50")}
            if row[f"{name}_AP"] > self.best:
                self.best = row[f"{name}_AP"]
                state = {
                    "model": network.state_dict(),
                    "family": network.family,
                    "network": network.config.to_dict(),
                    "classes": list(self.train_data.classes),
                    "input_hw": list(self.config.size_hw),
                }
                states.write(config.out / "best.pt", state)
        self.curve.append(row)
        self.save()
        return row

    def last_look(self) -> dict[str, Any]:
        """A look with the whole split, unless the last one was that, at these very weights."""
        count, last = len(self.val_data), (self.curve or [{}])[-1]
        same = (last.get("images_seen"), last.get("val_images")) == (self.images, count)
        if same and (self.config.out / "best.pt").is_file():
            return last
        if count > self.config.val_images:
            self.best = -1.0  # the whole split decides between the last raw and averaged weights
        return self.look(count)


def train(config: TrainConfig) -> dict[str, Any]:
    """Train from random weights, see `carry_out`."""
    return carry_out(Run(config))


def carry_out(run: Run, say: Say = print) -> dict[str, Any]:
    """Train until the budget is used; when interrupted (Ctrl-C), call again to go on.

    Args:
        run: where to begin; changed.
        say: takes what is to be told of a run that goes on, line by line.

    Returns:
        The last row of the curve.

    Raises:
        InputError: the data is missing or can't be used.
        BundleError: ``last.pt`` in the folder is damaged, or of another training.
    """
    config = run.config
    config.out.mkdir(parents=True, exist_ok=True)
    changed = run.resume()
    budget = run.shortened(config.hours * 3600)
    if changed:
        say("the data changed since: training begins anew from these weights")
    elif run.step:
        say(_where(run, budget))
    run.network.train()
    loader = Loader(
        run.train_data,
        run.augmentation(run.seconds / budget),
        config.batch,
        config.seed + run.step,
    )
    bar = tqdm(total=round(budget), initial=round(run.seconds), unit="s", desc=run.name)
    try:
        _steps(run, loader, bar, budget)
        return run.last_look()
    except BaseException as error:
        # Weights that are no numbers any more are worth less than those of the last save.
        if all(bool(value.isfinite().all()) for value in run.network.parameters()):
            run.save()
        if isinstance(error, KeyboardInterrupt):
            bar.write(f"stopped and saved in {config.out}; call again to go on")
        raise
    finally:
        loader.close()
        bar.close()


def _where(run: Run, budget: float) -> str:
    """At which minute a resumed run goes on, or how it gets more of them."""
    config, used = run.config, f"{run.seconds / 60:.1f} of {budget / 60:.4g} minutes"
    if run.seconds < budget:
        return f"goes on at {used}"
    more = 2 * max(run.seconds / 3600, config.hours)
    flag = f"--hours {more:.4g}" if config.variant else f"--minutes {60 * more:.4g}"
    return f"no time is left, {used} are used: to train on, give more, e.g. {flag}"


def _steps(run: Run, loader: Loader, bar: tqdm[Any], budget: float) -> None:
    """Steps until ``budget`` seconds are used, with a look at the validation split now and then."""
    config = run.config
    looked, mean_loss = run.seconds, 0.0
    while run.seconds < budget:
        began = time.monotonic()
        progress = run.seconds / budget
        loader.augmentation = run.augmentation(progress)
        loss = run.train_step(*next(loader), progress)
        mean_loss = 0.98 * mean_loss + 0.02 * loss if mean_loss else loss
        run.step += 1
        run.images += config.batch
        run.seconds += time.monotonic() - began
        bar.update(round(run.seconds) - bar.n)
        bar.set_postfix(loss=f"{mean_loss:.2f}", images=run.images, refresh=False)
        if run.seconds - looked > 60 * config.val_minutes and run.seconds < budget:
            looked = run.seconds
            bar.write(json.dumps(run.look(config.val_images)))
            budget = run.shortened(budget)
            bar.total = round(budget)
