#!/usr/bin/env python3
"""Write the tables of the README and of docs/*.md from the measurements in docs/results/*.json.

    python tools/make_readme.py           rewrite what stands between the markers
    python tools/make_readme.py --check   exit 1 if that would change anything

A table stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``; nothing there is typed by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from model_records import ap, evaluation, fps, megabytes, names, network_ms, number

from edgeseg.flags import DEFAULT_MODEL

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "docs" / "results"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table."""
    lines = [list(map(str, head)), ["---"] * len(head), *(list(map(str, row)) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def mark(holds: bool) -> str:
    """What stands behind a figure with a goal."""
    return "reached" if holds else "**missed**"


def machine(report: dict[str, Any]) -> str:
    """One line that says where a measurement was made."""
    card = report["machine"]
    return (
        f"{card['cpu']}, {card['cores']} cores, Python {card['python']}, "
        f"onnxruntime {card['versions']['onnxruntime']}"
    )


def models(results: dict[str, Any]) -> str:
    """The packaged models, so that a reader can choose."""
    held = names(results)
    rows = [
        [f"[`{name}`](docs/models.md#{name})", results[f"model_{name}"]["input_size"]]
        + [number(ap(evaluation(results, name, split), "int8")) for split in ("test", "unseen")]
        + [number(network_ms(results, name).get("int8"), 1), number(fps(results, name), 1)]
        + [f"{megabytes(results, name):.1f}"]
        for name in held
    ]
    head = ["`--model`", "input", "AP", "AP, unseen domain", "network ms", "fps", "MB"]
    classes = results[f"model_{held[0]}"]["classes"]
    return (
        f"{table(head, rows)}\n\n"
        f"{advice(results)}In INT8, the default. AP: COCO mask AP, 0 to 1, on 1000 "
        "pictures that training never saw, and on 1000 that differ in all but the classes "
        f"({', '.join(classes)}). fps: from the video to instances. {machine(results['bench'])}, "
        f"{results['bench']['threads']} thread. All there is to know of them: "
        "[docs/models.md](docs/models.md)."
    )


def advice(results: dict[str, Any]) -> str:
    """Which model is the fastest, and which finds the most; nothing where there is no choice."""
    rate = {name: fps(results, name) or 0.0 for name in names(results)}
    found = {name: ap(evaluation(results, name, "test"), "int8") or 0.0 for name in rate}
    if len(rate) < 2:
        return ""
    fastest, best = max(rate, key=rate.__getitem__), max(found, key=found.__getitem__)
    if fastest == best:
        return f"`{best}` is the fastest, and finds the most. "
    return f"The fastest is `{fastest}`; `{best}` finds the most. "


def accuracy(results: dict[str, Any]) -> str:
    """AP of the packaged models on the test split, in every precision."""
    reports = [one for name in names(results) if (one := evaluation(results, name, "test"))]
    rows = [
        [report["model"], row["precision"], row["engine"]]
        + [f"{row[name]:.3f}" for name in ("AP", "AP50", "AP75")]
        + [f"{row['large']['AP']:.3f}"]
        for report in reports
        for row in report["results"]
    ]
    head = ["model", "precision", "engine", "AP", "AP50", "AP75", "AP of large objects"]
    first = reports[0]
    return (
        f"{table(head, rows)}\n\n"
        f"COCO mask AP on {first['images']} unseen pictures of the {first['split']} split "
        f"({first['instances']} objects from 50 pixels at 320x240, dark pictures and piles "
        "included), each model at its own input size. Large: from 1/256 of the picture, 300 pixels "
        "at 320x240. By class: [docs/models.md](docs/models.md)."
    )


def training(results: dict[str, Any]) -> str:
    """How the default model came to its accuracy; a row in eight of the curve."""
    report = results[f"training_{DEFAULT_MODEL}"]
    curve = report["curve"]
    step = -(-len(curve) // 8)
    rows = [
        [f"{row['minutes']:.0f}", f"{row['images_seen'] / 1000:.0f} k"]
        + [f"{row[f'{kind}_{name}']:.3f}" for kind in ("raw", "ema") for name in ("AP", "AP50")]
        + [row["val_images"]]
        for row in curve[::-step][::-1]
    ]
    head = ["minutes", "images seen", "AP", "AP50", "AP, averaged", "AP50, averaged", "images"]
    record = f"training_{DEFAULT_MODEL}.json"
    return (
        f"{table(head, rows)}\n\n"
        f"![AP over pictures seen](docs/images/{DEFAULT_MODEL}-training.svg)\n\n"
        f"Training of `{DEFAULT_MODEL}` on {report['train_images']} rendered pictures; "
        f"{report['device']}, torch {report['torch']}. {report['note']} AP on the last column's "
        "number of validation pictures, of the last and of the averaged weights; the whole curve "
        f"is in [{record}](docs/results/{record})."
    )


def speed(results: dict[str, Any]) -> str:
    """Stages and end to end, per model."""
    report = results["bench"]
    goals = {"640x480": 0.80, "320x240": 0.55}
    rows = []
    for one in report["models"]:
        stages = [f"{one['stages'][name]['p50_ms']:.2f}" for name in STAGES]
        goal = goals.get(one["input_size"], 0.0)
        rates = [f"{one[side]['fps']:.1f}" for side in ("end_to_end", "network")]
        held = f"{goal:.2f}, {mark(one['efficiency'] >= goal)}"
        rows.append([one["model"], one["input_size"], *stages, *rates])
        rows[-1] += [f"{one['efficiency']:.2f}", held]
    head = ["model", "input", *(f"{name} ms" for name in STAGES)]
    head += ["end to end fps", "bare network fps", "ratio", "goal"]
    found = [one["instances_per_frame"] for one in report["models"]]
    return (
        f"{table(head, rows)}\n\n"
        f"Stages: p50. {report['threads']} thread, video of 640x480 decoded from H.264, "
        f"{min(found):.1f} to {max(found):.1f} instances a frame, no drawing. The ratio is of CPU "
        f"times, all models and both sides in turn in one process. {machine(report)}."
    )


def ros(results: dict[str, Any]) -> str:
    """What ROS adds at 30 Hz, and what happens without the profile."""
    report = results["ros"]
    shown = [
        one
        for one in report["cases"]
        if one["rate_hz"] == 30
        and (one["network"] == "fake" or (one["profile"] and one["precision"] == "int8"))
    ]
    head = ["image", "network", "profile", "delivered", "added ms p50", "p99", "added CPU ms"]
    busy = max(one["others_cpu"] for one in shown)
    return (
        f"{table(head, [ros_row(one) for one in shown])}\n\n"
        "At 30 Hz; camera, node and subscriber are three processes of one machine, the network "
        "runs on one thread. Added: from the image's publishing until its instances are in the "
        "subscriber, without the time in the Segmenter; and the node's CPU time, likewise. "
        "Profile: camera and node with the packaged Fast DDS profile, for which the goals are: "
        "99 % delivered, 3 ms at 640x480 and 5 ms at 1280x720, 3 ms of CPU at 640x480. Other "
        f"programs took up to {busy:.0%} of the machine meanwhile. {machine(report)}, rclpy "
        f"{report['machine']['ros']['rclpy']}. `make bench-ros` measures it on your machine. "
        f"{endurance(results['ros_soak'])}"
    )


def endurance(report: dict[str, Any]) -> str:
    """What camera and node grew by while the clip ran through them for long."""
    node, camera = report["node"], report["camera"]
    threads, files = (
        max(one[name]["growth"] for one in (node, camera)) for name in ("threads", "files")
    )
    return (
        f"After {report['seconds'] / 60:.0f} minutes of {report['size']} at {report['rate_hz']} Hz "
        f"with {report['model']}, the node has {node['anon_mib']['growth']:.1f} MiB more memory of "
        f"{node['anon_mib']['first']:.0f} and the camera {camera['anon_mib']['growth']:.1f} of "
        f"{camera['anon_mib']['first']:.0f}, {threads:.0f} more threads and {files:.0f} more "
        "descriptors."
    )


def ros_row(one: dict[str, Any]) -> list[str]:
    """One case, judged where there are goals."""
    added, cpu, delivered = one["overhead_ms"], one["node_cpu_beyond_ms"], one["delivered_fraction"]
    vga = one["height"] == 480
    figures = [
        (f"{delivered:.1%}", delivered >= 0.99),
        (f"{added['p50']:.1f}", added["p50"] <= (3 if vga else 5)) if added else ("", None),
        (f"{added['p99']:.1f}" if added else "", None),
        (f"{cpu:.1f}", cpu <= 3 if vga else None) if cpu is not None else ("", None),
    ]
    judged = [
        f"{text}, {mark(holds)}" if one["profile"] and holds is not None else text
        for text, holds in figures
    ]
    network = "fake" if one["network"] == "fake" else f"{one['network']} {one['precision']}"
    size, profile = f"{one['width']}x{one['height']}", "yes" if one["profile"] else "no"
    return [size, network, profile, *judged]


def precision(results: dict[str, Any]) -> str:
    """INT8 against FP32: speed of the bare network."""
    report = results["bench"]
    goals = {"640x480": 2.0, "320x240": 1.7}
    rows = []
    for row in report["precisions"]:
        goal = goals.get(row["input_size"], 0.0)
        held = f"{goal:.1f}x, {mark(row['speedup'] >= goal)}" if row["precision"] == "int8" else ""
        figures = [f"{row['p50_ms']:.1f}", f"{row['speedup']:.2f}x", held]
        rows.append([row["model"], row["input_size"], row["precision"], *figures])
    return (
        f"{table(['model', 'input', 'precision', 'network ms', 'speed-up', 'goal'], rows)}\n\n"
        f"p50 of the bare network, {report['threads']} thread, both precisions in turn in one "
        f"process. {machine(report)}."
    )


STAGES = ("capture", "preprocess", "network", "decode")


def against(usual_ms: float, ours_ms: float, goal: int) -> list[str]:
    """Both costs, their ratio, and whether it reaches the goal."""
    ratio = usual_ms / ours_ms
    held = f"{goal}x, {mark(ratio >= goal)}"
    return [f"{usual_ms:.1f}", f"{ours_ms:.2f}", f"{ratio:.0f}x", held]


def decode(results: dict[str, Any]) -> str:
    """Decode speed and fidelity, overlay, memory."""
    report = results["bench"]
    rows = []
    for row in report["decode"]["rows"]:
        logits, frame = row["logits_hw"], row["frame_hw"]
        goal = 40 if (logits[0], frame[0]) == (160, 720) else 10
        exact = row["mean_iou"] >= 0.998 and row["min_iou"] >= 0.995
        step = f"masks {logits[1]}x{logits[0]} to {frame[1]}x{frame[0]}"
        fidelity = f"mean {row['mean_iou']:.4f}, min {row['min_iou']:.4f}: {mark(exact)}"
        rows.append([step, *against(row["official_ms"], row["ours_ms"], goal), fidelity])
    overlay = report["overlay"]
    for name, what in (("fill", "overlay"), ("draw", "overlay with names")):
        costs = against(overlay["reference_ms"], overlay[f"{name}_ms"], 40)
        rows.append([f"{what}, {overlay['instances']} objects at {overlay['size']}", *costs, ""])
    memory = report["memory"]
    return (
        table(["step", "usual ms", "edgeseg ms", "ratio", "goal", "mask IoU with usual"], rows)
        + "\n\nCPU time of one thread, both sides in turn. Usual: the official two-step resize of "
        f"the {report['decode']['kept']} kept masks alone ({report['decode']['reference']}); alpha "
        f"blending per instance. Resident memory over {memory['frames']} frames through the "
        f"pipeline: at most {memory['start_mib']:.1f} MiB in the first half and "
        f"{memory['end_mib']:.1f} MiB in the second."
    )


def quantization(results: dict[str, Any]) -> str:
    """What INT8 of each part costs and gains, and other ranges."""
    report = results["quantization"]
    rows: list[list[object]] = [
        [
            row["what"],
            row["layers"],
            f"{row['ap_int8']:.3f}",
            f"{row['drop_ap']:+.1f}",
            f"{row['ms_int8']:.1f}",
            f"{row['speedup']:.2f}x",
        ]
        for row in report["rows"]
    ]
    first, load = report["rows"][0], report["load_average"]
    rows.insert(
        0, ["nothing: FP32", 0, f"{first['ap_fp32']:.3f}", "", f"{first['ms_fp32']:.1f}", ""]
    )
    head = ["in INT8", "layers", "AP", "AP lost", "ms", "speed-up"]
    return (
        f"{table(head, rows)}\n\n"
        f"`{report['model']}`; mask AP on {report['images']} pictures of the {report['split']} "
        f"split, and CPU time of one thread for one picture, all networks in turns in one process "
        f"({report['rounds']} rounds, median; load {load['before']:.1f} to {load['after']:.1f} by "
        "other work, so the ratios say more than the times). A loss below 0 is a gain; differences "
        f"of 0.2 are chance. {machine(report)}. Made by `tools/quantization_study.py`."
    )


def own_classes(results: dict[str, Any]) -> str:
    """What fine-tuning on new classes reached on its test split, and what it cost."""
    report = results["own_classes"]
    goal, test = report["goal"], report["test"]
    rows = [
        [row["precision"]]
        + [f"{row[name]:.3f}" for name in ("AP", "AP75")]
        + [f"{row['AP50']:.3f}", f"{goal['AP50']:.2f}, {mark(row['AP50'] >= goal['AP50'])}"]
        for row in test["results"]
    ]
    costs = [
        [step, f"{cost['wall_minutes']:.1f}", f"{cost['cpu_minutes']:.1f}"]
        for step, cost in report["times"].items()
    ]
    per_class = ", ".join(f"{k} {v:.2f}" for k, v in test["results"][0]["per_class"].items())
    training, counts = report["training"], report["pictures"]
    within = report["times"]["train"]["wall_minutes"] <= goal["minutes"]
    return (
        f"{table(['precision', 'AP', 'AP75', 'AP50', 'goal'], rows)}\n\n"
        f"{table(['step', 'minutes', 'CPU minutes'], costs)}\n\n"
        f"![Test pictures with the masks that were found](images/own-classes.jpg)\n\n"
        f"COCO mask AP on {test['images']} unseen pictures of the test split "
        f"({test['instances']} objects), after training on {counts['train']} and validating on "
        f"{counts['val']}; {training['images_seen']} augmented pictures were seen. By class: "
        f"{per_class}. The goal for training, check and INT8 included, is {goal['minutes']} "
        f"minutes on 2 cores: {mark(within)}. {report['note']} {machine(test)}."
    )


Tables = dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], str]]]
TABLES: Tables = {
    "models": ((f"model_{DEFAULT_MODEL}", f"eval_{DEFAULT_MODEL}", "bench"), models),
    "accuracy": ((f"eval_{DEFAULT_MODEL}",), accuracy),
    "training": ((f"training_{DEFAULT_MODEL}",), training),
    "speed": (("bench",), speed),
    "precision": (("bench",), precision),
    "decode": (("bench",), decode),
    "ros": (("ros", "ros_soak"), ros),
}
INT8_TABLES: Tables = {"quantization": (("quantization",), quantization)}
OWN_TABLES: Tables = {"own-classes": (("own_classes",), own_classes)}
PAGES = {
    README: TABLES,
    ROOT / "docs" / "int8.md": INT8_TABLES,
    ROOT / "docs" / "own-classes.md": OWN_TABLES,
}


def load_results(folder: Path) -> dict[str, Any]:
    """File name without ``.json`` -> content."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")}


def render(
    page: str, results: dict[str, Any], tables: Tables = TABLES, name: str = "the README"
) -> str:
    """A page with every table made anew."""
    for marker, (needs, make) in tables.items():
        ready = all(need in results for need in needs)
        text = make(results) if ready else "Not measured yet."
        block = f"<!-- {marker} -->\n{text}\n<!-- /{marker} -->"
        pattern = re.compile(rf"<!-- {marker} -->.*?<!-- /{marker} -->", re.DOTALL)
        if not pattern.search(page):
            raise SystemExit(f"got no <!-- {marker} --> in {name}; wanted it; put it back")
        page = pattern.sub(lambda _, block=block: block, page)
    return page


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    results = load_results(RESULTS)
    changed = False
    for path, tables in PAGES.items():
        before = path.read_text("utf-8")
        after = render(before, results, tables, "the README" if path == README else path.name)
        changed |= before != after
        if "--check" not in arguments:
            path.write_text(after, "utf-8")
    return int(changed and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
