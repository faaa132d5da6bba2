"""Weights to begin with: what is taken, and what is new."""

from dataclasses import replace

import pytest

from edgeseg.errors import BundleError

torch = pytest.importorskip("torch")

from edgeseg.export.network import network_of  # noqa: E402
from edgeseg.train.initial import Start, class_layers, read_start, take  # noqa: E402
from edgeseg.train.objectives import build_network  # noqa: E402

CLASS_LAYER = "sem_seg_head.predictor.class_embed_layers.1.layers.2.weight"
CONV = "backbone.layer1.0.conv1.weight"


@pytest.fixture(scope="module")
def start():
    return read_start("fastinst-nano")


def network_for(start, classes):
    return start.network(len(classes))


def test_everything_but_the_classes_is_taken(start):
    classes = ("ring", "mug", "star")
    network = network_for(start, classes)
    taken = take(network, start, classes)
    state = network.state_dict()
    rows = class_layers(start)
    assert taken.left == () and taken.tensors == len(state) - len(rows)
    assert all(
        torch.equal(state[key], start.state[key].to(state[key].dtype))
        for key in state
        if key not in rows
    )
    assert CLASS_LAYER in rows and CONV not in rows


def test_rows_of_known_classes_move_and_new_ones_are_the_mean(start):
    classes = ("ring", "mug")
    network = network_for(start, classes)
    taken = take(network, start, classes)
    old, new = start.state[CLASS_LAYER].float(), network.state_dict()[CLASS_LAYER]
    assert len(old) == 9 and len(new) == 3
    torch.testing.assert_close(new[0], old[:8].mean(0))
    assert torch.equal(new[1], old[start.classes.index("mug")])
    assert torch.equal(new[2], old[8])  # no object
    assert (taken.kept, taken.new) == (("mug",), ("ring",))
    assert "from fastinst-nano: " in taken.text()
    assert "of the class layers with their rows of mug; with new rows for ring" in taken.text()


def test_as_many_other_classes_are_not_taken_for_the_old_ones(start):
    classes = tuple(f"part{k}" for k in range(8))
    network = network_for(start, classes)
    take(network, start, classes)
    assert not torch.equal(network.state_dict()[CLASS_LAYER], start.state[CLASS_LAYER].float())


def test_a_tensor_of_another_shape_stays_random_and_is_named(start):
    wider = replace(start.shape, num_queries=30, num_aux_queries=6, num_classes=1)
    network = network_of("fastinst", wider.to_dict())
    taken = take(network, start, ("ring",))
    key = "sem_seg_head.predictor.empty_query_features.weight"
    assert key in taken.left and f"random: {taken.left[0]}" in taken.text()


def test_a_checkpoint_of_edgeseg_train_is_a_start_too(start, tmp_path):
    network = network_for(start, ("ring",))
    take(network, start, ("ring",))
    state = {"model": network.state_dict(), "network": network.config.to_dict()}
    state |= {"classes": ["ring"], "input_hw": [96, 128]}
    torch.save(state, tmp_path / "best.pt")
    again = read_start(tmp_path / "best.pt")
    assert (again.classes, again.input_hw, again.shape) == (("ring",), (96, 128), network.config)
    other = network_for(again, ("ring",))
    take(other, again, ("ring",))
    torch.testing.assert_close(other.state_dict(), network.state_dict())


def test_what_is_no_start_is_said(tmp_path):
    with pytest.raises(BundleError, match="did you mean 'fastinst-nano'"):
        read_start("fastinst-nan")
    torch.save({"model": {}}, tmp_path / "official.pth")
    with pytest.raises(BundleError, match=r"'edgeseg train' did not write.*'edgeseg convert'"):
        read_start(tmp_path / "official.pth")


def test_another_family_keeps_its_rows_too():
    network = build_network("knet-nano", 4)
    start = Start("k", "knet", network.config, network.state_dict(), tuple("abcd"), (240, 320), "")
    other = start.network(2)
    taken = take(other, start, ("d", "x"))
    key = "roi_head.mask_head.2.fc_cls.weight"
    old, new = network.state_dict()[key], other.state_dict()[key]
    assert taken.left == () and torch.equal(new[0], old[3])
    torch.testing.assert_close(new[1], old.mean(0))
