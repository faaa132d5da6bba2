"""The ONNX file: which operators, which shapes, where the weights are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export_networks import ALLOWED, COLOURS, tiny_network

from edgeseg.bundle import read
from edgeseg.engines.ort import onnxruntime
from edgeseg.errors import BundleError
from edgeseg.export.network import deployed
from edgeseg.export.onnx import export
from edgeseg.export.pack import pack, spec_of
from edgeseg.export.weights import write_weights


def graph_of(folder: Path) -> onnx.ModelProto:
    return onnx.load(folder / "model.onnx", load_external_data=False)


def operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def test_opset_operators_and_types(tiny: Path) -> None:
    model = graph_of(tiny)
    assert [(row.domain, row.version) for row in model.opset_import] == [("", 17)]
    assert operators(model) - ALLOWED == set()
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    for value in inferred.graph.value_info:
        kind = value.type.tensor_type
        assert kind.elem_type != onnx.TensorProto.BOOL, value.name
        assert all(axis.HasField("dim_value") for axis in kind.shape.dim), value.name


def test_input_and_outputs(tiny: Path) -> None:
    def layout(values: object) -> list[tuple[str, int, list[int]]]:
        return [
            (
                v.name,
                v.type.tensor_type.elem_type,
                [d.dim_value for d in v.type.tensor_type.shape.dim],
            )
            for v in values
        ]

    graph = graph_of(tiny).graph
    assert layout(graph.input) == [("image", onnx.TensorProto.UINT8, [1, 64, 96, 3])]
    assert layout(graph.output) == [
        ("scores", onnx.TensorProto.FLOAT, [12]),
        ("labels", onnx.TensorProto.INT32, [12]),
        ("masks", onnx.TensorProto.FLOAT, [12, 16, 24]),
    ]


def test_outputs_are_not_copied(tiny: Path) -> None:
    graph = graph_of(tiny).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    assert {makers[output.name] for output in graph.output}.isdisjoint({"Identity", "Reshape"})


def test_nodes_are_named_by_their_module(tiny: Path) -> None:
    names = [node.name for node in graph_of(tiny).graph.node]
    assert len(set(names)) == len(names)
    assert "backbone.layer1.0.conv1/Conv" in names
    assert any(name.startswith("sem_seg_head.predictor.") for name in names)


def test_constants_are_folded(tiny: Path) -> None:
    """Only a stored weight may be worked on at load: cast, turned for a matrix product, resized."""
    graph = graph_of(tiny).graph
    known = {tensor.name for tensor in graph.initializer}
    stored = {t.name for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL}
    for node in graph.node:
        if all(name in known or not name for name in node.input):
            assert node.op_type in ("Cast", "Transpose", "Resize", "Reshape"), node.name
            assert node.input[0] in stored, node.name
            stored |= set(node.output)
            known |= set(node.output)


def test_every_weight_is_in_the_bundle_once(tiny: Path) -> None:
    weights = tiny / "weights.safetensors"
    places = []
    for tensor in graph_of(tiny).graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entry = {row.key: row.value for row in tensor.external_data}
            assert entry["location"] == weights.name
            places.append((int(entry["offset"]), int(entry["length"])))
    assert len(set(places)) == len(places)
    assert sum(length for _, length in places) > 0.8 * weights.stat().st_size
    assert (tiny / "model.onnx").stat().st_size < 0.6 * weights.stat().st_size


def test_the_stored_bytes_are_the_trained_numbers(tiny: Path) -> None:
    model = onnx.load(tiny / "model.onnx")
    state = tiny_network().state_dict()
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for key in ("backbone.layer1.0.conv1.weight", "backbone.layer1.0.bn1.running_mean"):
        np.testing.assert_array_equal(arrays[key], state[key].numpy())
    packed = "sem_seg_head.predictor.transformer_query_self_attention_layers.0.self_attn"
    key = f"{packed}.in_proj_weight"
    np.testing.assert_array_equal(arrays[f"{key}[{32 * 32}]"], state[key][32:64].numpy())


def test_half_storage_is_exact(tmp_path: Path) -> None:
    """Float16 on disk: torch and ONNX compute with the same rounded weights."""
    network = tiny_network()
    spec = spec_of(network, "half", COLOURS, input_hw=(64, 96))
    pack(network, spec, tmp_path / "half", half=True)
    pack(network, spec, tmp_path / "full")
    sizes = [(tmp_path / f / "weights.safetensors").stat().st_size for f in ("half", "full")]
    assert sizes[0] < 0.7 * sizes[1]
    for tensor in network.state_dict().values():
        if tensor.ndim >= 2:
            tensor.copy_(tensor.half().float())
    image = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
    with torch.no_grad():
        wanted = deployed(network, spec)(image)
    session = onnxruntime.InferenceSession(str(tmp_path / "half" / "model.onnx"))
    for a, b in zip(wanted, session.run(None, {"image": image.numpy()}), strict=True):
        np.testing.assert_allclose(b, a.numpy(), atol=2e-5, rtol=1e-5)
    assert operators(graph_of(tmp_path / "half")) - ALLOWED == set()


def test_the_runtime_casts_and_folds_at_load(tmp_path: Path) -> None:
    """What is left for each frame: no cast of a weight, no batch norm, no transposed weight."""
    network = tiny_network()
    pack(network, spec_of(network, "b", COLOURS, input_hw=(64, 96)), tmp_path / "b", half=True)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(str(tmp_path / "b" / "model.onnx"), options)
    nodes = onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph.node
    kinds = [node.op_type for node in nodes]
    assert kinds.count("Cast") <= 3  # the picture to float, the labels
    assert "BatchNormalization" not in kinds
    weights = [
        n.input[0] for n in nodes if n.op_type == "Transpose" and n.input[0].endswith("weight")
    ]
    assert weights == []


def test_a_spec_that_the_network_does_not_fit(tmp_path: Path) -> None:
    network = tiny_network()
    spec = spec_of(network, "b", COLOURS, input_hw=(64, 96))
    weights = tmp_path / "weights.safetensors"
    write_weights(weights, network.state_dict(), half=False)
    with pytest.raises(BundleError) as caught:
        export(deployed(network, spec), replace(spec, mask_stride=8), tmp_path / "m.onnx", weights)
    assert str(caught.value) == (
        "got masks float32 (12, 16, 24) from the network; wanted float32 (12, 8, 12); "
        "mend max_instances or mask_stride of the spec"
    )


def test_the_bundle_tells_how_to_build_its_network(tiny: Path) -> None:
    spec = read(tiny)
    assert spec.network["num_queries"] == 12
    assert json.loads((tiny / "bundle.json").read_text())["network"] == spec.network
