"""What ROS adds to the network: camera, node and observer as three processes of one machine.

python -m edgeseg_ros.bench --json ros.json
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import rclpy
from ament_index_python.packages import get_package_share_directory
from rclpy.signals import SignalHandlerOptions
from tqdm import tqdm

from edgeseg import bundle, record
from edgeseg.doctor import machine
from edgeseg.engines.fake import fake_spec
from edgeseg.errors import EdgesegError
from edgeseg.segmenter import load
from edgeseg.signals import exit_code, orderly_end
from edgeseg_ros.figures import table
from edgeseg_ros.trial import Case, measure

SIZES = ((640, 480), (1280, 720))
RATES_HZ = (30.0, 15.0)
Network = tuple[str, str, str, str]


def cases(network: Network, rates_hz: Sequence[float], *, quick: bool) -> list[Case]:
    """One network (name, model, engine, precision) at each rate and size, with profile and without.

    Quick ones are of VGA only.
    """
    return [
        Case(*network, *size, rate_hz, profile)
        for rate_hz in rates_hz
        for size in SIZES[: 1 if quick else None]
        for profile in (True, False)
    ]


def bench(
    model: str = "fastinst-nano",
    engine: str = "ort",
    precision: str | None = None,
    *,
    quick: bool = False,
) -> dict[str, Any]:
    """Measure all cases, one after the other.

    Args:
        model: packaged bundle or bundle folder; runs on one thread.
        engine: that runs it.
        precision: one of the bundle's; all of them when left out.
        quick: fewer cases of two seconds, to see that it works.

    Returns:
        ``machine seconds cases``; each case as `edgeseg_ros.trial.measure` says.

    Raises:
        EdgesegError: the network can't be loaded, or camera or node don't start.
    """
    seconds, warm_up_s = (2.0, 0.5) if quick else (10.0, 2.0)
    spec = bundle.read(bundle.find(model))
    chosen = [precision] if precision else list(spec.precisions)[: 1 if quick else None]
    for one in chosen:
        load(model, engine, precision=one, threads=1).close()  # or say at once why it can't be
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        with TemporaryDirectory() as folder:
            # Hardly a network: what remains is the cost of ROS.
            fake = Path(folder) / "fake"
            bundle.write(fake, fake_spec(), {"model.onnx": b"no network"})
            todo = cases(("fake", str(fake), "fake", "fp32"), RATES_HZ[:1], quick=quick)
            for one in chosen:
                rates_hz = RATES_HZ[1 if quick else 0 :]
                todo += cases((spec.name, model, engine, one), rates_hz, quick=quick)
            bar = tqdm(todo, unit="case", disable=None, leave=False)
            rows = [measure(case, Path(folder), seconds, warm_up_s) for case in bar]
    finally:
        rclpy.try_shutdown()
    return {"machine": {**machine(), "ros": _versions()}, "seconds": seconds, "cases": rows}


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write the JSON file that was asked for."""
    parser = argparse.ArgumentParser(prog="edgeseg bench --ros", description=__doc__)
    parser.add_argument("model", nargs="?", default="fastinst-nano")
    parser.add_argument("--engine", default="ort")
    parser.add_argument("--precision")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(words)
    try:
        with orderly_end():
            if args.json is not None:
                record.check_target(args.json)
            report = bench(args.model, args.engine, args.precision, quick=args.quick)
            sys.stdout.write(f"{table(report)}\n")
            if args.json is not None:
                record.write(args.json, report)
        return 0
    except EdgesegError as error:
        sys.stderr.write(f"edgeseg bench --ros: {error}\n")
        return error.exit_code
    except KeyboardInterrupt as interruption:
        return exit_code(interruption)


def _versions() -> dict[str, str]:
    """Those of rclpy and of the middleware."""
    return {
        name: ElementTree.parse(Path(get_package_share_directory(name)) / "package.xml").findtext(
            "version", "unknown"
        )
        for name in ("rclpy", rclpy.get_rmw_implementation_identifier())
    }


if __name__ == "__main__":
    sys.exit(main())
