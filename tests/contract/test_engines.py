"""One suite for every engine. A new engine is one row of `ENGINES` here and in the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg import registry
from edgeseg.bundle import ModelSpec, read
from edgeseg.engines.base import Engine, output_layout
from edgeseg.engines.cuda import open_device
from edgeseg.engines.trt import library
from edgeseg.engines.trt_build import check_target
from edgeseg.errors import EngineError, InputError

ENGINES = ["eager", "fake", "openvino", "ort", "trt"]
LIKE_TRT = ["trt-dla", "trt-dla1"]
"""`trt` with three settings more; they take FP16 alone, and what they set is in test_trt_dla.py."""
MARKS = {"trt": (pytest.mark.gpu, pytest.mark.trt)}


@pytest.fixture(scope="module")
def folder(tiny_bundle: Path) -> Path:
    """A bundle that every engine can load: a real, untrained, tiny FastInst."""
    return tiny_bundle


@pytest.fixture(scope="module")
def spec(folder: Path) -> ModelSpec:
    return read(folder)


def resolve(name: str) -> type[Engine]:
    """The class of an engine; skips the test where its library isn't installed."""
    if name == "openvino" and find_spec("openvino") is None:
        pytest.skip("needs openvino")
    if name == "trt":
        try:
            check_target(library(), open_device().target)
        except InputError as error:
            pytest.skip(f"needs another GPU for trt: {error}")
    return registry.resolve("engine", name)


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, ())) for name in ENGINES])
def load(request: pytest.FixtureRequest, folder: Path, spec: ModelSpec) -> Callable[..., Engine]:
    """Loads the engine of this round."""
    kind = resolve(request.param)
    return lambda precision="fp32", threads=1: kind.load(folder, spec, precision, threads)


@pytest.fixture
def engine(load: Callable[..., Engine]) -> Iterator[Engine]:
    engine = load()
    yield engine
    engine.close()


def test_the_suite_covers_every_engine() -> None:
    assert sorted(registry.ENGINES) == sorted([*ENGINES, *LIKE_TRT])


def draw(engine: Engine, seed: int) -> None:
    """Dark ground with bright blobs, different for each seed."""
    random = np.random.default_rng(seed)
    engine.input[...] = random.integers(0, 60, engine.input.shape)
    height, width = engine.spec.input_hw
    for _ in range(4):
        top, left = (random.random(2) * (height - 32, width - 32)).astype(int)
        engine.input[0, top : top + 32, left : left + 32] = random.integers(100, 256, 3)


def copied(outputs: dict[str, Any]) -> dict[str, Any]:
    return {name: array.copy() for name, array in outputs.items()}


def test_the_input_is_the_engines_own_array(engine: Engine, spec: ModelSpec) -> None:
    assert engine.spec == spec
    assert engine.input.shape == (1, *spec.input_hw, 3)
    assert engine.input.dtype == np.uint8
    assert engine.input.flags.c_contiguous
    assert engine.input.flags.writeable


def test_the_outputs_have_the_layout_of_the_spec(engine: Engine, spec: ModelSpec) -> None:
    outputs = engine.run()
    assert {n: (a.shape, a.dtype.type) for n, a in outputs.items()} == output_layout(spec)
    assert list(outputs) == ["scores", "labels", "masks"]


def test_outputs_mean_something(engine: Engine, spec: ModelSpec) -> None:
    draw(engine, 1)
    outputs = engine.run()
    scores: Any = outputs["scores"]
    labels: Any = outputs["labels"]
    masks: Any = outputs["masks"]
    assert np.isfinite(masks).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    assert scores.max() > 0
    assert ((labels >= 0) & (labels < len(spec.classes))).all()


def test_the_picture_decides(engine: Engine) -> None:
    draw(engine, 1)
    one = copied(engine.run())
    draw(engine, 2)
    other = copied(engine.run())
    draw(engine, 1)
    again = engine.run()
    assert np.abs(one["masks"] - other["masks"]).max() > 1e-3
    for name, array in again.items():
        np.testing.assert_array_equal(array, one[name])


def test_input_and_outputs_are_reused(engine: Engine) -> None:
    given = engine.input
    first = engine.run()
    addresses = {name: array.ctypes.data for name, array in first.items()}
    draw(engine, 3)
    second = engine.run()
    assert engine.input is given
    assert {name: array.ctypes.data for name, array in second.items()} == addresses
    assert all(first[name] is second[name] for name in first)


def test_two_engines_do_not_share(load: Callable[..., Engine]) -> None:
    one, two = load(), load()
    draw(one, 1)
    draw(two, 2)
    kept = copied(one.run())
    two.run()
    for name, array in one.run().items():
        np.testing.assert_array_equal(array, kept[name])


def test_describe_is_one_line(engine: Engine) -> None:
    text = engine.describe()
    assert text
    assert "\n" not in text


def test_a_closed_engine_says_so(engine: Engine) -> None:
    engine.close()
    engine.close()
    with pytest.raises(EngineError) as caught:
        engine.run()
    assert str(caught.value) == ("got a run of a closed engine; wanted an open one; load it again")


def test_an_unknown_precision_lists_the_known(load: Callable[..., Engine]) -> None:
    with pytest.raises(InputError, match="got precision 'fp23'; wanted one of fp32; did you mean"):
        load("fp23")


def test_the_number_of_threads_does_not_change_the_result(load: Callable[..., Engine]) -> None:
    one, two = load(threads=1), load(threads=2)
    draw(one, 5)
    draw(two, 5)
    a, b = one.run(), two.run()
    np.testing.assert_array_equal(a["labels"], b["labels"])
    np.testing.assert_allclose(a["masks"], b["masks"], atol=1e-4)


@pytest.mark.parametrize(
    ("other", "tolerance"),
    [
        ("eager", 1e-4),
        ("openvino", 1e-4),
        pytest.param("trt", 2e-2, marks=MARKS["trt"]),  # multiplies with TF32's 10 bits
    ],
)
def test_real_engines_agree(folder: Path, spec: ModelSpec, other: str, tolerance: float) -> None:
    results = []
    for name in ("ort", other):
        engine = resolve(name).load(folder, spec, "fp32", 1)
        draw(engine, 7)
        results.append(engine.run())
    wanted, got = results
    np.testing.assert_array_equal(got["labels"], wanted["labels"])
    np.testing.assert_allclose(got["scores"], wanted["scores"], atol=tolerance / 10)
    np.testing.assert_allclose(got["masks"], wanted["masks"], atol=tolerance)
