#!/usr/bin/env python3
"""Write the model cards of docs/models.md from the records in docs/results.

    python tools/make_models.py           rewrite what stands between the markers
    python tools/make_models.py --check   exit 1 if that would change anything

A model has a card once docs/results/model_NAME.json is there; `model_records` says which other
records it is made of. A part without a record is left out. What K-Net was reduced by comes from
reductions.json.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from make_readme import RESULTS, ROOT, Tables, load_results, machine, mark, render, table
from model_goals import LEAST_FPS_RATIO, MAX_BUNDLE_MB, verdicts
from model_records import (
    Results,
    ap,
    evaluation,
    fps,
    fps_ratio,
    megabytes,
    names,
    network_ms,
    number,
    peer,
)

PAGE = ROOT / "docs" / "models.md"
IMAGES = ROOT / "docs" / "images"


def overview(results: Results) -> str:
    """All models in one table."""
    rows = []
    for name in names(results):
        model, times = results[f"model_{name}"], network_ms(results, name)
        test, unseen = (evaluation(results, name, split) for split in ("test", "unseen"))
        cost = [f"{model['parameters'] / 1e6:.2f} M", f"{model['macs'] / 1e9:.2f}"]
        accuracy = [number(ap(one, p)) for one in (test, unseen) for p in ("fp32", "int8")]
        speed = [number(times.get(p), 1) for p in ("fp32", "int8")]
        speed += [number(fps(results, name), 1), of_peer(results, name)]
        rows.append([f"[`{name}`](#{name})", model["input_size"], *cost, *accuracy, *speed])
    head = ["model", "input", "parameters", "GMAC", "AP test, FP32", "AP test, INT8"]
    head += ["AP unseen, FP32", "AP unseen, INT8", "ms, FP32", "ms, INT8", "fps, INT8"]
    return table([*head, "fps / FastInst's"], rows)


def of_peer(results: Results, name: str) -> str:
    """Frames per second over those of the FastInst of its size, judged where that is a goal."""
    ratio, least = fps_ratio(results, name), LEAST_FPS_RATIO.get(name)
    if ratio is None or least is None:
        return number(ratio, 2)
    return f"{ratio:.2f}, {mark(ratio >= least)}"


def measured(results: Results) -> str:
    """What the columns of speed are, and where they were measured."""
    report = results.get("bench")
    if not report:
        return ""
    return (
        "ms: p50 of the bare network. fps: video of 640x480 to instances, without drawing; all "
        "models and both sides in turn in one process. "
        f"{report['threads']} thread. {machine(report)}."
    )


def goals(results: Results) -> str:
    """Every goal, judged."""
    rows = [
        [f"`{one.model}`", one.goal, one.measured, mark(one.holds)] for one in verdicts(results)
    ]
    return (
        f"{table(['model', 'goal', 'measured', ''], rows)}\n\n"
        "What compares models is of INT8, in which the bundles run; AP is that of the test split."
    )


def identity(results: Results, name: str) -> str:
    """What the network finds, and what it costs to store and to compute."""
    model = results[f"model_{name}"]
    total = megabytes(results, name)
    limit = f"{MAX_BUNDLE_MB:.0f} MB, {mark(total <= MAX_BUNDLE_MB)}"
    files = ", ".join(f"`{file}` {size / 1e6:.2f}" for file, size in model["bytes"].items())
    rows = [
        ["finds", ", ".join(model["classes"])],
        ["family", model["family"]],
        ["input", f"{model['input_size']}, at most {model['max_instances']} instances"],
        ["precisions", f"{', '.join(model['precisions'])}; the first is the default"],
        ["parameters", f"{model['parameters'] / 1e6:.2f} M"],
        ["multiply-accumulates", f"{model['macs'] / 1e9:.2f} G: convolutions, matrix products"],
        ["bundle", f"{total:.1f} MB; at most {limit}"],
        ["files, MB", files],
        ["licence", f"{model['licence']}: code, weights and pictures"],
    ]
    if agreement := results.get(f"check_{name}"):
        rows.append(["ONNX against torch", agreed(agreement)])
    return table(["", ""], rows)


def agreed(report: dict[str, Any]) -> str:
    """What `edgeseg check` found, over all pictures."""
    rows = report["rows"]
    verdict = "agrees" if report["ok"] else "**does not agree**"
    return (
        f"{verdict}: scores within {max(row['score'] for row in rows):.0e}, mask IoU at least "
        f"{min(row['min_iou'] for row in rows):.4f} on {len(rows)} pictures; {report['engine']}"
    )


def training(results: Results, name: str) -> str:
    """How long it was trained on what, and its curve."""
    report = results.get(f"training_{name}")
    if not report:
        return ""
    last = report["curve"][-1]
    picture = f"{name}-training.svg"
    curve = f"\n\n![AP over pictures seen](images/{picture})" if (IMAGES / picture).exists() else ""
    return (
        "### Training\n\n"
        f"{last['minutes']:.0f} minutes on {report['device']} with torch {report['torch']}; "
        f"{last['images_seen'] / 1000:.0f} thousand augmented pictures seen, of "
        f"{report['train_images']} rendered ones. {report.get('note', '')}".rstrip()
        + curve
    )


def accuracy(results: Results, name: str) -> str:
    """AP on the test split and on the unseen domain, in all and by class."""
    reported = {split: evaluation(results, name, split) for split in ("test", "unseen")}
    held = {split: one for split, one in reported.items() if one}
    if not held:
        return ""
    rows = [
        [split, row["precision"], *figures(row), one["images"], one["instances"]]
        for split, one in held.items()
        for row in one["results"]
    ]
    least = next(iter(held.values()))["results"][0]["large"]["min_area_px"]
    head = ["split", "precision", "AP", "AP50", "AP75", f"AP of >= {least} px"]
    head += ["pictures", "objects"]
    parts = [table(head, rows), dropped(held), factors(results, name), per_class(held)]
    return "\n\n".join(["### Accuracy", *filter(None, parts)])


def figures(row: dict[str, Any]) -> list[str]:
    """AP, AP50, AP75, and AP of large objects."""
    return [number(one) for one in (row["AP"], row["AP50"], row["AP75"], row["large"]["AP"])]


def dropped(held: dict[str, Any]) -> str:
    """What the unseen domain costs."""
    if len(held) < 2:
        return ""
    words = []
    for row in held["test"]["results"]:
        test, unseen = (ap(held[split], row["precision"]) for split in ("test", "unseen"))
        if test is not None and unseen is not None:
            lost = f"{100 * (test - unseen):.1f} ({row['precision']})"
            words.append(f"{lost}, from {test:.3f} to {unseen:.3f}")
    return f"AP points lost in the unseen domain: {'; '.join(words)}."


def factors(results: Results, name: str) -> str:
    """What each part of the unseen domain costs alone."""
    report = results.get(f"domain_{name}")
    if not report:
        return ""
    first = report["rows"][0]["AP"]
    rows = [
        [row["changed"], number(row["AP"]), number(row["AP50"]), f"{100 * (first - row['AP']):.1f}"]
        for row in report["rows"]
    ]
    return (
        f"{table(['changed', 'AP', 'AP50', 'AP points lost'], rows)}\n\n"
        f"One part of the unseen domain at a time: {report['images']} pictures each, of the same "
        f"scenes, which no split shows; {report['ran']}. "
        f"Made by `python tools/study_domain.py {name}`."
    )


def per_class(held: dict[str, Any]) -> str:
    """AP of each class, a column for each split and precision."""
    columns = [(split, row) for split, one in held.items() for row in one["results"]]
    classes = list(columns[0][1]["per_class"])
    head = ["AP of", *(f"{split}, {row['precision']}" for split, row in columns)]
    return table(head, [[c, *(number(row["per_class"][c]) for _, row in columns)] for c in classes])


def speed(results: Results, name: str) -> str:
    """Milliseconds of the network, frames per second, and where they were measured."""
    times, rate = network_ms(results, name), fps(results, name)
    if not times:
        return ""
    rows = [[precision, f"{ms:.1f}"] for precision, ms in times.items()]
    report = results["bench"]
    whole = "" if rate is None else f"From the video to instances: {rate:.1f} fps. "
    versus = fps_ratio(results, name)
    whole += "" if versus is None else f"That is {versus:.2f} of `{peer(name)}`. "
    return (
        f"### Speed\n\n{table(['precision', 'network ms'], rows)}\n\n"
        f"p50 of the bare network, {report['threads']} thread. {whole}{machine(report)}."
    )


def share(row: dict[str, Any], outcome: str) -> str:
    """Percentage of objects with an outcome."""
    return f"{row[outcome] / row['objects']:.0%}" if row["objects"] else ""


def limits(results: Results, name: str) -> str:
    """What it fails on: by size, by class, by light; and its worst pictures."""
    report = results.get(f"failures_{name}")
    if not report:
        return ""
    outcomes = ("found", "wrong_class", "missed")
    sizes = [
        [pixels(row), row["objects"], *(share(row, one) for one in outcomes)]
        + [number(value) for value in row["AP"].values()]
        for row in report["by_size"]
    ]
    size_head = ["pixels", "objects", "found", "wrong class", "missed"]
    size_head += [f"AP, {precision}" for precision in report["by_size"][0]["AP"]]
    classes = [
        [kind, row["objects"], *(share(row, one) for one in outcomes), row["extra"], confused(row)]
        for kind, row in report["by_class"].items()
    ]
    class_head = [
        "class", "objects", "found", "wrong class", "missed", "extra", "mostly taken for"
    ]  # fmt: skip
    return (
        f"### Limits\n\n{stated(report)}\n\n{table(size_head, sizes)}\n\n"
        f"{table(class_head, classes)}\n\n{sheet(report, name)}"
    )


def stated(report: dict[str, Any]) -> str:
    """What was counted, and how dark pictures fare."""
    light = report["by_light"]
    dark = (
        f" In dark pictures it finds {share(light['dark'], 'found')} of the objects, in others "
        f"{share(light['other'], 'found')}."
        if len(light) == 2
        else ""
    )
    return (
        f"On the {report['split']} split, {report['precision']}, with scores from "
        f"{report['score_threshold']}: an object is found if a detection of its class has a mask "
        f"IoU of {report['min_iou']} with it, of the wrong class if only one of another has. "
        "What belongs to no object, or to one that is taken, is extra. Without any error are "
        f"{report['faultless_images']} of {report['images']} pictures.{dark}"
    )


def pixels(row: dict[str, Any]) -> str:
    """A range of areas in words."""
    low, high = row["from_px"], row["to_px"]
    if high is None:
        return f"from {low}"
    return f"{low} to {high}" if low else f"up to {high}"


def confused(row: dict[str, Any]) -> str:
    """The two classes that one is most often taken for."""
    first = list(row["taken_for"].items())[:2]
    return ", ".join(f"{name} {count}" for name, count in first)


def sheet(report: dict[str, Any], name: str) -> str:
    """The picture of failures with its rule."""
    errors = report["worst"].values()
    return (
        f"![The worst {len(errors)} pictures](images/{name}-failures.jpg)\n\n"
        f"The {len(errors)} pictures of the {report['split']} split with the most errors (missed, "
        f"wrong class, extra; {max(errors)} to {min(errors)} each), one of a scene. Green: found. "
        "Red, named: found as another class, or extra. Yellow, named: missed. White: the true "
        "outline of what was found. Made by "
        f"`python tools/find_failures.py {name}`."
    )


def card(results: Results, name: str) -> str:
    """All that is known of a model."""
    makers = (identity, training, accuracy, speed, limits)
    parts = [make(results, name) for make in makers]
    return "\n\n".join([f"## {name}", *filter(None, parts)])


def data(results: Results) -> str:
    """The splits of each size, and hashes by which anybody can tell that theirs are the same."""
    sizes = results["dataset"]
    rows = [
        (size, split, one["images"], one["first_scene"], f"`{one['sha256']}`")
        for size, made in sizes.items()
        for split, one in made["splits"].items()
    ]
    made = next(iter(sizes.values()))
    libraries = ", ".join(f"{name} {version}" for name, version in made["libraries"].items())
    return (
        f"{table(['size', 'split', 'pictures', 'first scene', 'sha256'], rows)}\n\n"
        f"{made['views_per_scene']} pictures of each scene, seed {made['seed']}; {libraries}; the "
        "same scenes in every size. `python tools/make_dataset.py --size WxH` makes them anew and "
        "writes the same hashes into `manifest.json`. Training pictures are those of 640x480; a "
        "network of 320x240 is trained on them as the robot's letterbox resizes them."
    )


def models(results: Results) -> str:
    """The overview, the goals and every card."""
    cards = (card(results, name) for name in names(results))
    parts = [overview(results), measured(results), goals(results), *cards]
    return "\n\n".join(filter(None, parts))


def reductions(results: Results) -> str:
    """What each change of K-Net cost and saved, down to knet-nano."""
    report = results["reductions"]
    made, trained = report["cost"], report.get("train")
    parts = [costs(results, made, trained), told(made)]
    if trained:
        parts.append(
            f"AP of a short training, to show a direction, no more: {trained['pictures']} pictures "
            f"for each step, from `{trained['start']}` as far as it fits, which favours what is "
            f"close to it; on {trained['val_images']} pictures of the val split."
        )
    if "stages" in report:
        parts.append(by_stage(report["stages"]))
    return "\n\n".join(parts)


def costs(results: Results, made: dict[str, Any], trained: dict[str, Any] | None) -> str:
    """A row for each step; what was not taken is compared with the last that was."""
    short = trained["rows"] if trained else {}
    rows, before, last = [], None, made["rows"][0]
    for row in made["rows"]:
        if row["taken"]:
            before, last = (last if rows else None), row
        else:
            before = last
        figures = [("macs", 1e9, 2), ("parameters", 1e6, 2), ("ms_fp32", 1, 1), ("ms_int8", 1, 1)]
        shown = [changed(row, before, *figure) for figure in figures]
        full = number(ap(evaluation(results, row["step"], "test"), "fp32"))
        few = number(short[row["step"]]["AP"]) if row["step"] in short else ""
        what = row["what"] if row["taken"] else f"*not taken:* {row['what']}"
        rows.append([what, *shown, full, *[few] * bool(trained)])
    head = ["changed", "GMAC", "parameters, M", "ms, FP32", "ms, INT8", "AP test, FP32"]
    return table([*head, *["AP, short training"] * bool(trained)], rows)


def changed(
    row: dict[str, Any], before: dict[str, Any] | None, name: str, unit: float, digits: int
) -> str:
    """A figure, and by how much of itself it has changed."""
    value = number(row[name] / unit, digits)
    return f"{value} ({row[name] / before[name] - 1:+.0%})" if before else value


def told(made: dict[str, Any]) -> str:
    """How the costs were measured."""
    return (
        f"Each row changes one thing more; what was not taken is compared with knet-nano. Input "
        f"{made['input_size']}, all networks in turns in one process, {made['rounds']} runs each, "
        f"p50, 1 thread. {machine(made)}. An empty AP: not trained. Made by "
        "`python tools/study_reductions.py`."
    )


def by_stage(report: dict[str, Any]) -> str:
    """What the stages of one trained network predict."""
    names = ("AP", "AP50", "AP75")
    rows = [
        [row["stage"], row["mask_stride"], *(number(row[name]) for name in names)]
        for row in report["rows"]
    ]
    return (
        f"{table(['stage', 'stride of its masks', *names], rows)}\n\n"
        f"The fully trained {report['model']} on {report['images']} pictures of the "
        f"{report['split']} split, FP32: what its stages predict, one after the other. A network "
        "trained with fewer stages may do better than the first of these."
    )


TABLES: Tables = {
    "models": ((), models),
    "reductions": (("reductions",), reductions),
    "data": (("dataset",), data),
}


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    before = PAGE.read_text("utf-8")
    after = render(before, load_results(RESULTS), TABLES, PAGE.name)
    if "--check" not in arguments:
        PAGE.write_text(after, "utf-8")
    return int(before != after and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
