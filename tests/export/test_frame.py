"""Networks for frames of one size: their masks are those that the CPU makes of the logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_onnx import session

from edgeseg import bundle, load
from edgeseg.cameras import open_camera
from edgeseg.decode.queries import QueryDecoder
from edgeseg.engines.fake import fake_spec
from edgeseg.errors import BundleError, InputError
from edgeseg.export.build import build_engines
from edgeseg.export.frame import BITS, ending_in_bits
from edgeseg.export.int8 import quantize
from edgeseg.letterbox import fit

Cli = Callable[..., Any]
TARGETS = ("sm86", "sm89", "sm120")
SPEC = fake_spec((48, 64), max_instances=6)
SIZES = [(48, 64), (96, 128), (144, 253), (256, 144), (13, 11), (1, 9), (2000, 3)]
"""As the network; twice as large; letterboxed, of odd width; portrait; smaller; hardly any."""


# The end of the network alone, in ONNX Runtime.


def small(spec: bundle.ModelSpec) -> onnx.ModelProto:
    """A network whose logits are an input, for any values."""
    shape = (spec.max_instances, *spec.mask_hw)
    picture = helper.make_tensor_value_info("image", TensorProto.UINT8, (1, *spec.input_hw, 3))
    given = helper.make_tensor_value_info("given", TensorProto.FLOAT, shape)
    masks = helper.make_tensor_value_info("masks", TensorProto.FLOAT, shape)
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, (1, *spec.input_hw, 3))
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Identity", ["floats"], ["pixels"]),
        helper.make_node("Identity", ["given"], ["masks"]),
    ]
    graph = helper.make_graph(nodes, "small", [picture, given], [pixels, masks])
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)


def bits_of(logits: np.ndarray, spec: bundle.ModelSpec) -> np.ndarray:
    """What the network for frames makes of mask logits."""
    made = replace(spec, frame_hw=spec.frame_hw, outputs={**spec.outputs, "masks": BITS})
    model = ending_in_bits(small(replace(spec, frame_hw=None)), spec, made)
    onnx.checker.check_model(model, full_check=True)
    image = np.zeros((1, *spec.input_hw, 3), np.uint8)
    (bits,) = session(model).run([BITS], {"image": image, "given": logits})
    return np.asarray(bits)


def waves(seed: int) -> np.ndarray:
    """Mask logits (6, 12, 16) that cross 0 often."""
    noise = np.random.default_rng(seed).normal(size=(6, 12, 16)).astype(np.float32)
    return cv2.blur(noise.transpose(1, 2, 0), (3, 3)).transpose(2, 0, 1)


def decoded(masks: np.ndarray, spec: bundle.ModelSpec, frame_hw: tuple[int, int]) -> Any:
    scores, labels = np.linspace(0.9, 0.8, 6, dtype=np.float32), np.zeros(6, np.int32)
    outputs = {"scores": scores, "labels": labels, "masks": masks}
    return QueryDecoder(spec)(outputs, fit(frame_hw, spec.input_hw))


@pytest.mark.parametrize("frame_hw", SIZES)
@pytest.mark.parametrize("spoiled", [None, np.nan, np.inf, -np.inf])
def test_its_masks_are_those_of_the_cpu(frame_hw: tuple[int, int], spoiled: float | None) -> None:
    logits, spec = waves(1), replace(SPEC, frame_hw=frame_hw)
    if spoiled is not None:
        logits[2, 5:7, 5:7] = spoiled
    bits = bits_of(logits, spec)
    assert (bits.dtype, bits.shape) == (np.uint8, (6, frame_hw[0], -(-frame_hw[1] // 8)))
    assert not np.unpackbits(bits, axis=2)[:, :, frame_hw[1] :].any()
    got, wanted = decoded(bits, spec, frame_hw), decoded(logits, SPEC, frame_hw)
    assert len(wanted) >= 1
    np.testing.assert_array_equal(got.scores, wanted.scores)
    np.testing.assert_array_equal(got.boxes_xyxy, wanted.boxes_xyxy)
    for i in range(len(wanted)):
        np.testing.assert_array_equal(got.mask(i), wanted.mask(i))


# The packaged network.


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[int, int]], Path]:
    """Makes bundles for frames, of all precisions."""
    if find_spec("tensorrt_rtx") is None:
        pytest.skip("needs trt-rtx; run: make trt-env")
    folder = tmp_path_factory.mktemp("frames")

    def make(frame_hw: tuple[int, int]) -> Path:
        out = folder / "x".join(map(str, frame_hw))
        if not out.exists():
            build_engines(
                "fastinst-nano",
                targets=["sm89"],
                precisions=["int8", "fp16", "fp32"],
                out=out,
                frame_hw=frame_hw,
                say=lambda text: None,
            )
        return out

    return make


@pytest.fixture(scope="module")
def vga(made: Callable[[tuple[int, int]], Path]) -> Path:
    return made((480, 640))


@pytest.mark.parametrize("precision", ["int8", "fp32"])
@pytest.mark.parametrize("frame_hw", [(480, 640), (720, 1277)])
def test_frames_of_the_clip_have_the_same_masks(
    made: Callable[[tuple[int, int]], Path], frame_hw: tuple[int, int], precision: str
) -> None:
    settings: dict[str, Any] = {"precision": precision, "threads": 1}
    masks = different = 0
    with (
        open_camera(bundle.PACKAGED / "clip" / "tabletop.mp4") as camera,
        load(made(frame_hw), "ort", **settings) as ours,
        load("fastinst-nano", "ort", **settings) as logits,
    ):
        for frame in camera:
            with frame:
                if frame.sequence % 100:
                    continue
                picture = cv2.resize(np.asarray(frame.pixels), frame_hw[::-1])
            got, wanted = ours(picture), logits(picture)
            np.testing.assert_array_equal(got.labels, wanted.labels)
            for i in range(len(wanted)):
                one, other = got.mask(i), wanted.mask(i)
                assert (one & other).sum() >= 0.999 * (one | other).sum()
                different += int((one ^ other).sum())
            masks += len(wanted)
    assert masks > 20
    assert different <= 10


@pytest.mark.parametrize("target", TARGETS)
def test_convolutions_stay_int8_and_the_masks_are_one_kernel(vga: Path, target: str) -> None:
    (engine,) = build_engines(vga, targets=[target], precisions=["int8"], say=lambda text: None)
    assert (engine.meant, engine.share) == (37, 1.0)
    tail = [one for one in engine.layers if any(node.startswith(BITS) for node in one.nodes)]
    *others, bits, cast = tail
    assert (bits.kind, bits.outputs) == ("kgen", ("Float",))  # from logits to each byte's value
    assert (cast.kind, cast.outputs) == ("kgen", ("UInt8",))
    shared = {node for one in others for node in one.nodes if node.startswith(BITS)}
    assert shared <= {f"{BITS}/number", f"{BITS}/least", f"{BITS}/most"}, "constants"


def test_the_bundle_says_so_and_holds_nothing_else(vga: Path) -> None:
    spec = bundle.read(vga)
    assert (spec.frame_hw, spec.weights, spec.outputs["masks"]) == ((480, 640), "", BITS)
    assert list(spec.precisions) == ["int8", "fp16", "fp32"]
    int8 = {"model.int8.onnx", "model.int8.u8.onnx", "model.int8.trt.onnx"}
    floats = {"model.fp16.onnx", "model.onnx", "model.trt.onnx"}
    assert set(spec.files) == {*int8, *floats, "model.trt.weights"}


@pytest.mark.parametrize("engine", ["ort", "openvino"])
def test_a_frame_of_another_size_is_one_sentence(vga: Path, engine: str) -> None:
    if find_spec({"ort": "onnxruntime"}.get(engine, engine)) is None:
        pytest.skip(f"needs {engine}")
    with load(vga, engine) as segmenter:
        segmenter(np.zeros((480, 640, 3), np.uint8))
        with pytest.raises(InputError) as caught:
            segmenter(np.zeros((720, 1280, 3), np.uint8))
    assert str(caught.value) == (
        "got a frame of 1280x720; wanted 640x480, the one size that this bundle is for; set the "
        "camera to it, or run: edgeseg build MODEL --frame 1280x720 --out BUNDLE"
    )


def test_the_verb_makes_one(edgeseg_cli: Cli, tiny: Path, tmp_path: Path) -> None:
    if find_spec("tensorrt_rtx") is None:
        pytest.skip("needs trt-rtx; run: make trt-env")
    out = tmp_path / "out"
    words = ("build", tiny, "--targets", "sm89", "--out", out)
    assert edgeseg_cli(*words, "--frame", "64x48").code == 0
    assert bundle.read(out).frame_hw == (48, 64)
    wrong = edgeseg_cli(*words, "--overwrite", "--frame", "0x48")
    assert wrong.code == 2
    assert wrong.err.endswith(
        "got frame_hw (48, 0); wanted height and width, 1..8192 each; correct that field\n"
    )


def test_what_needs_logits_refuses_it(vga: Path, tmp_path: Path) -> None:
    with pytest.raises(
        BundleError, match=r"^got 480x640, which is for frames of one size already;"
    ):
        build_engines(vga, targets=["sm89"], frame_hw=(480, 640), say=lambda text: None)
    with pytest.raises(BundleError, match=r"^got 480x640, whose networks end in masks for one fra"):
        quantize(vga, tmp_path / "out", images=bundle.PACKAGED / "clip" / "tabletop.mp4")
    with pytest.raises(BundleError, match=r"^got bundle '480x640' without torch weights; wanted"):
        load(vga, "eager")
