"""What engine ``auto`` is: the fastest that was measured here, as long as the libraries stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeseg import load, registry
from edgeseg.bench_precision import choose
from edgeseg.bundle import read
from edgeseg.engines import choice
from edgeseg.engines.fake import FakeEngine, fake_spec
from edgeseg.errors import EngineError

SPEC = replace(
    fake_spec(),
    precisions={"int8": "a.onnx", "fp32": "b.onnx"},
    files={"a.onnx": "1", "b.onnx": "2"},
)
ROWS = [
    {"engine_name": "ort", "precision": "int8", "p50_ms": 9.0},
    {"engine_name": "trt", "precision": "int8", "p50_ms": 3.0},
    {"engine_name": "trt", "precision": "fp32", "p50_ms": 2.0},
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_nothing_measured_is_onnx_runtime_and_the_first_precision() -> None:
    assert choice.chosen_here(SPEC) == ("ort", "int8")
    assert choice.chosen_here(SPEC, "fp32") == ("ort", "fp32")


def test_the_fastest_wins_also_among_one_precision() -> None:
    choice.keep(SPEC, ROWS)
    assert choice.chosen_here(SPEC) == ("trt", "fp32")
    assert choice.chosen_here(SPEC, "int8") == ("trt", "int8")
    assert choice.chosen_here(SPEC, "fp16") == ("ort", "fp16")


def test_another_bundle_and_another_library_are_measured_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choice.keep(SPEC, ROWS)
    assert choice.chosen_here(replace(SPEC, files={"a.onnx": "3"})) == ("ort", "int8")
    here = choice.here()
    monkeypatch.setattr(choice, "here", lambda: here | {"cores": 99})
    assert choice.chosen_here(SPEC) == ("ort", "int8")


def test_a_changed_record_is_not_believed(cache: Path) -> None:
    choice.keep(SPEC, ROWS)
    (record,) = cache.glob("measured-*.json")
    record.write_text(record.read_text().replace("trt", "fake"))
    assert choice.chosen_here(SPEC) == ("ort", "int8")


def test_choose_measures_what_loads_and_load_follows(
    fake_bundle: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"fake": registry.ENGINES["fake"], "quick": registry.ENGINES["fake"]}
    rows["broken"] = registry.Entry("nowhere.at_all:Engine", "broken")
    monkeypatch.setattr(registry, "ENGINES", rows)
    monkeypatch.setitem(registry.TABLES, "engine", rows)
    report = choose(fake_bundle, video, rounds=3)
    assert [(row["engine_name"], row["precision"]) for row in report["rows"]] == [("quick", "fp32")]
    assert list(report["refused"]) == ["broken fp32"]
    made: list[str] = []
    inner: Callable[..., Any] = registry.resolve
    monkeypatch.setattr(registry, "resolve", lambda *x: made.append(x[1]) or inner(*x))
    load(fake_bundle).close()
    assert made == ["quick"]


def test_auto_runs_on_when_the_fastest_engine_has_gone(
    fake_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    choice.keep(read(fake_bundle), [{"engine_name": "gone", "precision": "fp32", "p50_ms": 1.0}])
    monkeypatch.setitem(registry.ENGINES, "ort", registry.ENGINES["fake"])
    with load(fake_bundle) as segmenter:
        assert "fake engine" in segmenter.describe()
    assert "got engine 'gone'" in caplog.text and "engine ort instead" in caplog.text


def test_a_machine_without_any_engine_says_so(
    fake_bundle: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.TABLES, "engine", {"fake": registry.ENGINES["fake"]})
    with pytest.raises(EngineError, match="got no engine that runs fake here"):
        choose(fake_bundle, video, rounds=3)


def test_engines_are_closed_after_the_measurement(
    fake_bundle: Path, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[int] = []
    monkeypatch.setattr(FakeEngine, "close", lambda self: closed.append(1))
    monkeypatch.setitem(registry.TABLES, "engine", {"quick": registry.ENGINES["fake"]})
    choose(fake_bundle, video, rounds=3)
    assert closed == [1]
