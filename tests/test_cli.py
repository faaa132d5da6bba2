"""The command line: what it teaches, what it says of a mistake, how it leaves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeseg import cli, errors, flags
from edgeseg.bundle import packaged

Cli = Callable[..., Any]
ALL = ["doctor", "run", "demo", "bench", "eval", "export", "quantize", "build"]
ALL += ["check", "train", "convert"]


# Help.


def test_help_shows_every_verb_and_teaches_the_first_steps(edgeseg_cli: Cli) -> None:
    spoken = edgeseg_cli("--help")
    assert spoken.code == 0
    assert list(cli.VERBS) == ALL
    for verb in ALL:
        assert f"\n    {verb} " in spoken.out
    assert "edgeseg demo" in spoken.out
    assert "exit codes: 0 ok, 1 a check failed" in spoken.out
    assert "130 Ctrl-C, 143 SIGTERM" in spoken.out


@pytest.mark.parametrize("verb", ALL)
def test_every_verb_has_help(edgeseg_cli: Cli, verb: str) -> None:
    spoken = edgeseg_cli(verb, "--help")
    assert spoken.code == 0
    assert cli.VERBS[verb].summary in " ".join(spoken.out.split())


@pytest.mark.parametrize(
    "verb", ["run", "demo", "bench", "eval", "export", "check", "train", "convert"]
)
def test_every_verb_that_measures_or_produces_takes_json(edgeseg_cli: Cli, verb: str) -> None:
    assert "--json FILE" in edgeseg_cli(verb, "--help").out


def test_the_flags_of_a_model_have_one_name_everywhere(edgeseg_cli: Cli) -> None:
    for verb in ("run", "demo", "bench", "eval"):
        text = edgeseg_cli(verb, "--help").out
        for flag in ("--engine", "--precision", "--threads"):
            assert flag in text, (verb, flag)
    for verb in ("run", "demo"):
        assert "--score-threshold" in edgeseg_cli(verb, "--help").out


def test_help_loads_no_library() -> None:
    code = (
        "import sys\nfrom edgeseg.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'numpy', 'cv2', 'onnxruntime', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_version(edgeseg_cli: Cli) -> None:
    spoken = edgeseg_cli("--version")
    assert (spoken.code, spoken.out) == (0, "edgeseg 0.1.0\n")


# Missing parts.


def test_a_verb_whose_extra_is_missing_is_shown_and_names_the_extra(
    edgeseg_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flags, "find_spec", lambda name: None if name == "torch" else object())
    shown = " ".join(edgeseg_cli("--help").out.split())
    for verb, extra in (
        ("export", "export"),
        ("check", "export"),
        ("convert", "export"),
        ("train", "train"),
    ):
        assert f"{cli.VERBS[verb].summary} (first: pip install 'edgeseg[{extra}]')" in shown
    spoken = edgeseg_cli("check", "anything")
    assert spoken.code == 3
    assert spoken.err == (
        "edgeseg check: got no module 'torch'; this part needs it; "
        "run: pip install 'edgeseg[export]'\n"
    )


# Mistakes: one line with what to do, the right exit code, no traceback.

MISTAKES: dict[str, tuple[tuple[object, ...], int, str]] = {
    "no model": (("eval", "fastinst-nona"), 2, "got bundle 'fastinst-nona'; wanted a folder with"),
    "no source": (("run", "no.mp4", "--model", "BUNDLE", "--engine", "fake"), 2, "no.mp4"),
    "no engine": (
        ("run", "VIDEO", "--model", "BUNDLE", "--engine", "fakee"),
        2,
        "got engine 'fakee'; wanted one of eager, fake, openvino, ort, trt, trt-dla, "
        "trt-dla1; did you mean 'fake'?",
    ),
    "no precision": (
        ("run", "VIDEO", "--model", "BUNDLE", "--engine", "fake", "--precision", "fp31"),
        2,
        "got precision 'fp31'; wanted one of fp32; did you mean 'fp32'?",
    ),
    "no camera": (
        ("run", "synthetics", "--model", "BUNDLE", "--engine", "fake"),
        2,
        "got camera 'synthetics'; wanted one of bag, files, synthetic; did you mean 'synthetic'?",
    ),
    "no class": (
        ("run", "VIDEO", "--model", "BUNDLE", "--engine", "fake", "--classes", "red,gren"),
        2,
        "got class 'gren'; wanted one of blue, green, red; did you mean 'green'?",
    ),
    "threshold": (
        ("run", "VIDEO", "--model", "BUNDLE", "--engine", "fake", "--score-threshold", "7"),
        2,
        "7",
    ),
    "out folder": (
        ("run", "VIDEO", "--model", "BUNDLE", "--engine", "fake", "--out", "no/where.jsonl"),
        2,
        "for 'no/where.jsonl'; wanted to write it; choose a folder that exists",
    ),
    "video name": (
        ("run", "VIDEO", "--model", "BUNDLE", "--engine", "fake", "--video", "masks.gif"),
        2,
        "got a video named 'masks.gif'; wanted a name that ends in .mp4",
    ),
    "json folder": (
        ("doctor", "--json", "no/where.json"),
        2,
        "got 'No such file or directory' for 'no/where.json'; wanted to write it; choose a folder",
    ),
    "no split": (
        ("eval", "BUNDLE", "--data", "nowhere"),
        2,
        "run: python tools/make_dataset.py --out",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(
    edgeseg_cli: Cli,
    name: str,
    video: Path,
    fake_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    words, code, text = MISTAKES[name]
    there = {"VIDEO": video, "BUNDLE": fake_bundle}
    spoken = edgeseg_cli(*(there.get(str(word), word) for word in words))
    assert spoken.code == code
    assert text in spoken.err
    assert spoken.err.count("\n") == 1
    assert "Traceback" not in spoken.err
    assert not list(tmp_path.iterdir()), "something half-written stays"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "the following arguments are required: VERB"),
        (("rum",), "invalid choice: 'rum'"),
        (("run",), "edgeseg run: got no SOURCE; wanted a video, a folder or a picture; name one"),
        (("run", "x", "--foo"), "unrecognized arguments: --foo"),
        (("run", "x", "--threads", "many"), "got threads 'many'; wanted"),
        (("demo", "--threads", "many"), "argument --threads: invalid int value: 'many'"),
        (("export", "x", "--out", "y", "--input-size", "big"), "got 'big'; wanted WIDTHxHEIGHT"),
    ],
)
def test_a_usage_mistake_is_code_2(edgeseg_cli: Cli, words: tuple[str, ...], text: str) -> None:
    spoken = edgeseg_cli(*words)
    assert spoken.code == 2
    assert text in spoken.err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (errors.InputError("got x; wanted y; do z"), 2, "edgeseg doctor: got x; wanted y; do z\n"),
        (errors.missing("tensorrt", "tensorrt"), 3, None),
        (KeyboardInterrupt(), 130, ""),
        (
            PermissionError(13, "Permission denied", "runs/nano"),
            2,
            "edgeseg doctor: got [Errno 13] Permission denied: 'runs/nano'; wanted to read or "
            "write it; check the path, its permissions and the space\n",
        ),
        (
            ModuleNotFoundError("No module named 'av'", name="av"),
            3,
            "edgeseg doctor: got no module 'av'; wanted the base install; "
            "run: pip install --force-reinstall edgeseg\n",
        ),
    ],
)
def test_the_exit_code_of_each_end(
    edgeseg_cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    said: str | None,
) -> None:
    def fail(args: object) -> int:
        raise error

    monkeypatch.setitem(cli.VERBS, "doctor", flags.Verb("x", flags.json_flag, fail))
    spoken = edgeseg_cli("doctor")
    assert spoken.code == code
    assert spoken.err == (f"edgeseg doctor: {error}\n" if said is None else said)


def test_our_own_bugs_keep_their_traceback(
    edgeseg_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(args: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setitem(cli.VERBS, "doctor", flags.Verb("x", flags.json_flag, fail))
    with pytest.raises(ZeroDivisionError):
        edgeseg_cli("doctor")


def test_a_reader_that_leaves_is_not_an_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "edgeseg", "doctor"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


# The verbs at work.


def test_doctor_says_what_is_here(edgeseg_cli: Cli, tmp_path: Path) -> None:
    spoken = edgeseg_cli("doctor", "--json", tmp_path / "doctor.json")
    assert spoken.code == 0
    report = json.loads((tmp_path / "doctor.json").read_text())
    assert report["engines"]["ort"] == ""
    assert sorted(report["bundles"]) == packaged()
    assert re.search(
        r"^bundles +fastinst-nano: 320x240, int8 and fp32, 8 classes, ", spoken.out, re.MULTILINE
    )
    assert report["versions"]["numpy"] in spoken.out
    assert "tensorrt: not here" in spoken.out or not report["extras"]["tensorrt"]


def test_run_writes_both_outputs(
    edgeseg_cli: Cli, video: Path, fake_bundle: Path, tmp_path: Path
) -> None:
    lines, masks, numbers = (tmp_path / name for name in ("m.jsonl", "m.mp4", "m.json"))
    spoken = edgeseg_cli(
        "run", video, "--model", fake_bundle, "--engine", "fake",
        "--out", lines, "--video", masks, "--json", numbers,
    )  # fmt: skip
    assert spoken.code == 0, spoken.err
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [row["sequence"] for row in rows] == list(range(24))
    assert {one["class"] for row in rows for one in row["instances"]} == {"red", "blue"}
    import av

    with av.open(str(masks)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 24
    report = json.loads(numbers.read_text())
    assert report["received"] == report["delivered"] == 24
    assert report["instances"] == 48
    for text in ("preprocess", "network", "decode", "p50", "p99", "copies per frame", str(masks)):
        assert text in spoken.out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.json", "m.jsonl", "m.mp4"]


def test_run_takes_a_picture_a_folder_and_a_synthetic_scene(
    edgeseg_cli: Cli, picture: Path, fake_bundle: Path, tmp_path: Path
) -> None:
    for source in (picture, picture.parent, "synthetic:128x96@30?seconds=0.2"):
        out = tmp_path / "m.jsonl"
        spoken = edgeseg_cli(
            "run", source, "--model", fake_bundle, "--engine", "fake", "--out", out
        )
        assert spoken.code == 0, spoken.err
        assert out.read_text().count("\n") >= 1


def test_run_reads_settings_from_a_file_and_flags_win(
    edgeseg_cli: Cli, picture: Path, fake_bundle: Path, tmp_path: Path
) -> None:
    config, out = tmp_path / "run.yaml", tmp_path / "m.jsonl"
    config.write_text(
        f"camera: {{source: {picture}}}\nmodel: {fake_bundle}\nengine: fake\n"
        f"classes: [red]\noutputs: {{jsonl: {out}}}\n"
    )
    for more, count in (((), 1), (("--classes", "red,blue"), 2)):
        spoken = edgeseg_cli("run", "--config", config, *more)
        assert spoken.code == 0, spoken.err
        assert len(json.loads(out.read_text())["instances"]) == count
    config.write_text("camera: {sorce: x}\n")
    spoken = edgeseg_cli("run", "--config", config)
    assert spoken.code == 2
    assert "got unknown setting 'camera.sorce'; wanted a known one; did you mean" in spoken.err


def test_classes_and_threshold_narrow_the_result(
    edgeseg_cli: Cli, picture: Path, fake_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "m.jsonl"
    words = ("run", picture, "--model", fake_bundle, "--engine", "fake", "--out", out)
    for more, count in (((), 2), (("--classes", "red"), 1), (("--score-threshold", "0.99"), 0)):
        assert edgeseg_cli(*words, *more).code == 0
        assert len(json.loads(out.read_text())["instances"]) == count


class Evil:
    """What a pickle with code in it looks like."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("owned").touch, ())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("convert", "evil.pth", "--family", "fastinst", "--variant", "r50-d1"), "evil.pth"),
        (("convert", "no.pth", "--family", "fastinst", "--variant", "r50-d1"), "no.pth"),
        (
            ("convert", "evil.pth", "--family", "fastinst", "--variant", "r50-d2"),
            "got variant 'r50-d2'; wanted one of r101-d3, r50-d1",
        ),
        (
            ("convert", "evil.pth", "--family", "fastinstt", "--variant", "r50-d1"),
            "got family 'fastinstt'; wanted one of fastinst, knet; did you mean 'fastinst'?",
        ),
        (("export", "nowhere"), "got bundle 'nowhere'; wanted a folder with bundle.json"),
        (("export", "evil.pth"), "evil.pth"),
    ],
)
def test_a_checkpoint_that_cant_be_used_is_one_line(
    edgeseg_cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    text: str,
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    spoken = edgeseg_cli(*words, "--out", tmp_path / "bundle")
    assert spoken.code == 2
    assert text in spoken.err
    assert spoken.err.count("\n") == 1
    assert "; wanted " in spoken.err
    assert [p.name for p in tmp_path.iterdir()] == ["evil.pth"], "its code ran, or a part stays"


@pytest.mark.slow
def test_check_agrees_or_exits_with_1(edgeseg_cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    file = tmp_path / "check.json"
    spoken = edgeseg_cli("check", flags.DEFAULT_MODEL, "--json", file)
    assert (spoken.code, spoken.out.splitlines()[-1]) == (0, "agrees")
    assert json.loads(file.read_text())["ok"]
    spoken = edgeseg_cli("check", flags.DEFAULT_MODEL, "--engine", "fake")
    assert spoken.code == 1
    assert "does NOT agree" in spoken.out


@pytest.mark.slow
def test_a_packaged_bundle_is_exported_for_a_larger_input(edgeseg_cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    out, file = tmp_path / "large", tmp_path / "export.json"
    words = ("export", flags.DEFAULT_MODEL, "--out", out, "--input-size", "640x480")
    spoken = edgeseg_cli(*words, "--json", file)
    assert spoken.code == 0, spoken.err
    assert json.loads(file.read_text())["input_hw"] == [480, 640]
    assert f"next: edgeseg check {out}" in spoken.out
    again = edgeseg_cli(*words)
    assert again.code == 2
    assert "choose another name, or overwrite it" in again.err
    assert edgeseg_cli(*words, "--overwrite").code == 0
