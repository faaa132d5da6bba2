"""What comes out of the node for an image that went in."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros.harness import BEST_EFFORT, LATCHED, Image, Peer, ask, image, picture, stamp_of, until

import edgeseg
from edgeseg.messages import masks
from edgeseg.sinks.overlay import Overlay

pytestmark = pytest.mark.ros
Make = Callable[..., Any]


def pixels_of(message: Image) -> np.ndarray[Any, Any]:
    kind = np.uint16 if message.encoding == "mono16" else np.uint8
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    return rows.view(kind).reshape(message.height, message.width, -1).squeeze()


def test_instances(active: Make, peer: Peer, fake_bundle: Path) -> None:
    from edgeseg_msgs.msg import InstanceArray

    active()
    answers = peer.collect(InstanceArray, "/segment/instances")
    (found,) = ask(peer, peer.publisher(), image(picture()), answers)
    wanted = edgeseg.load(fake_bundle, "fake")(picture())
    assert len(wanted) == 2
    assert (found.header.frame_id, stamp_of(found)) == ("optical", (1, 2))
    assert (found.height, found.width) == (96, 128)
    assert [*found.ids] == [0, 1]
    assert [*found.class_ids] == wanted.labels.tolist()
    assert np.array_equal(found.scores, wanted.scores)
    assert np.array_equal(np.reshape(found.boxes_xyxy, (-1, 4)), wanted.boxes_xyxy)
    assert np.array_equal(masks(found), [wanted.mask(0), wanted.mask(1)])


def test_nothing_seen_is_an_answer_too(active: Make, peer: Peer) -> None:
    from edgeseg_msgs.msg import InstanceArray

    active()
    answers = peer.collect(InstanceArray, "/segment/instances")
    dark = image(np.zeros((96, 128, 3), np.uint8))
    (found,) = ask(peer, peer.publisher(), dark, answers)
    assert [len(found.ids), len(found.mask_starts), len(found.mask_counts)] == [0, 0, 0]
    assert masks(found).shape == (0, 96, 128)


def test_label_map_and_overlay(active: Make, peer: Peer, fake_bundle: Path) -> None:
    active()
    maps = peer.collect(Image, "/segment/label_map")
    overlays = peer.collect(Image, "/segment/overlay")
    labelled, drawn = ask(peer, peer.publisher(), image(picture()), maps, overlays)
    instances = edgeseg.load(fake_bundle, "fake")(picture())
    wanted = instances.label_map()
    assert (labelled.encoding, labelled.step, labelled.header.frame_id) == ("mono8", 128, "optical")
    assert {*np.unique(pixels_of(labelled))} == {0, 1, 2}
    assert np.array_equal(pixels_of(labelled), wanted)
    over = picture()
    Overlay(("red", "green", "blue")).draw(over, instances)
    assert (drawn.encoding, drawn.step, drawn.header.frame_id) == ("bgr8", 384, "optical")
    assert np.array_equal(pixels_of(drawn), over)


def test_pictures_follow_the_size_of_the_image(active: Make, peer: Peer) -> None:
    active()
    maps = peer.collect(Image, "/segment/label_map")
    publisher = peer.publisher()
    for second, (height, width) in enumerate([(96, 128), (200, 160), (96, 128), (81, 99)]):
        sent = image(picture(0, height, width), stamp=(second, 0))
        (found,) = ask(peer, publisher, sent, maps)
        assert (found.height, found.width, found.step) == (height, width, width)
        assert len(found.data) == height * width
        assert {*found.data} == {0, 1, 2}


def test_pictures_are_built_only_while_somebody_looks(active: Make, peer: Peer) -> None:
    from edgeseg_msgs.msg import InstanceArray

    node = active().node
    published = node._outputs.published
    answers = peer.collect(InstanceArray, "/segment/instances")
    publisher = peer.publisher()
    ask(peer, publisher, image(picture(), stamp=(1, 0)), answers)
    assert published["label_map"] == published["overlay"] == published["image"] == 0
    looking = peer.node.create_subscription(Image, "/segment/overlay", lambda _: None, 1)

    def drawn() -> bool:
        publisher.publish(image(picture()))
        return bool(published["overlay"])

    until(drawn, "an overlay")
    assert published["label_map"] == 0
    peer.node.destroy_subscription(looking)
    until(lambda: not node.count_subscribers("/segment/overlay"), "nobody looks")
    ask(peer, publisher, image(picture(), stamp=(2, 0)), answers)
    before = published["overlay"]
    for second in range(3, 6):
        ask(peer, publisher, image(picture(), stamp=(second, 0)), answers)
    assert published["overlay"] == before


@pytest.mark.parametrize("name", ["label_map", "overlay"])
def test_pictures_are_switched_off_and_on(name: str, active: Make, peer: Peer) -> None:
    from edgeseg_msgs.msg import InstanceArray

    active()
    answers = peer.collect(InstanceArray, "/segment/instances")
    pictures = peer.collect(Image, f"/segment/{name}")
    publisher = peer.publisher()
    ask(peer, publisher, image(picture(), stamp=(1, 0)), answers, pictures)
    assert peer.set(**{f"publish.{name}": False}) == ""
    ask(peer, publisher, image(picture(), stamp=(2, 0)), answers)
    ask(peer, publisher, image(picture(), stamp=(3, 0)), answers)
    assert not [one for one in pictures if stamp_of(one)[0] == 3]
    assert peer.set(**{f"publish.{name}": True}) == ""
    ask(peer, publisher, image(picture(), stamp=(4, 0)), answers, pictures)


def test_a_late_subscriber_gets_the_label_info(active: Make, peer: Peer, fake_bundle: Path) -> None:
    from edgeseg_msgs.msg import LabelInfo

    active(score_threshold=0.75)
    found = peer.collect(LabelInfo, "/segment/label_info", LATCHED)
    message = until(lambda: found, "label info")[0]
    assert (message.model, [*message.class_names]) == ("fake", ["red", "green", "blue"])
    assert message.score_threshold == 0.75
    digest = sha256((fake_bundle / "bundle.json").read_bytes()).hexdigest()
    assert message.model_sha256 == digest
    assert peer.set(score_threshold=0.5) == ""
    assert until(lambda: found[1:], "the new threshold")[0].score_threshold == 0.5


def test_outputs_are_reliable_and_the_input_is_not(active: Make, peer: Peer) -> None:
    active()
    (images,) = until(lambda: peer.node.get_subscriptions_info_by_topic("/image"), "subscription")
    assert images.qos_profile.reliability == BEST_EFFORT.reliability
    until(lambda: peer.node.get_publishers_info_by_topic("/segment/label_info"), "label info")
    for topic in ("instances", "label_map", "overlay", "image", "label_info"):
        (one,) = peer.node.get_publishers_info_by_topic(f"/segment/{topic}")
        assert one.qos_profile.reliability != BEST_EFFORT.reliability, topic
        latched = one.qos_profile.durability == LATCHED.durability
        assert latched == (topic == "label_info"), topic


def test_diagnostics_tell_how_it_goes(active: Make, peer: Peer) -> None:
    active()
    publisher = peer.publisher()

    def flows() -> bool:
        publisher.publish(image(picture(), stamp=(3, 0)))
        level, _, values = peer.health("segmentation")
        return level == 0 and int(values.get("delivered", 0)) > 20

    until(flows, lambda: peer.statuses, every_s=0.03)
    level, text, values = peer.health("input")
    assert level == 0 and text.endswith(" Hz")
    assert float(values["rate Hz"]) > 5
    assert int(values["received"]) > 20
    assert values["source"] == "/image" and values["publishers"] == "1"
    assert {name for name in values if name.startswith("dropped")} == {
        f"dropped, {cause}" for cause in ("driver", "corrupt", "stale", "superseded")
    }
    assert float(values["stamp age s"]) > 1e6  # the images say 1970
    level, text, values = peer.health("segmentation")
    assert values["state"] == "active" and values["network"].startswith("fake on fake engine")
    assert values["callback errors"] == "0"
    assert 0 < float(values["latency p50 ms"]) < 500
    assert float(values["network p50 ms"]) >= 0


def test_diagnostics_tell_the_state_from_the_start(spun: Make, peer: Peer) -> None:
    spun()
    until(lambda: peer.health("segmentation")[1] == "unconfigured", lambda: peer.statuses)
    assert peer.change("configure")
    until(lambda: peer.health("segmentation")[1] == "inactive", lambda: peer.statuses)
    assert peer.change("activate")
    until(lambda: peer.health("segmentation")[2]["state"] == "active", lambda: peer.statuses)
    assert peer.change("shutdown")
    until(lambda: peer.health("segmentation")[1] == "finalized", lambda: peer.statuses)
