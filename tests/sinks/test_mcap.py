"""What an MCAP file of results holds, as readers see it that share no code with the writer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from ros_bags import START_NS, TOPIC, at_30_hz, header, image, write_bag
from rosbags.highlevel import AnyReader

from edgeseg import messages
from edgeseg.cameras import open_camera
from edgeseg.cameras.bag import BagHeader
from edgeseg.errors import InputError
from edgeseg.frame import Frame
from edgeseg.instances import Instances, from_masks
from edgeseg.sinks.mcap import TOPICS, McapSink

ROOT = Path(__file__).resolve().parents[2]
LABELS = {
    "classes": ["mug", "can"],
    "model": "nano",
    "model_sha256": "ab" * 32,
    "score_threshold": 0.25,
}


def instances(count: int, seed: int = 0, height: int = 48, width: int = 64) -> Instances:
    """Overlapping random masks, some of whole columns and of single pixels."""
    random = np.random.default_rng(seed)
    full = random.random((count, height, width)) < random.random((count, 1, 1)) ** 3
    full[::3, :, 5:9] = True
    full[1::3, 0, 0] = full[2::3, -1, -1] = True
    return from_masks(full, random.random(count), random.integers(0, 2, count))


def frame(number: int, head: Any = None, **fields: Any) -> Frame:
    pixels = np.zeros((48, 64, 3), np.uint8)
    return Frame(pixels, "bgr8", stamp_ns=1000 + number, sequence=number, header=head, **fields)


def read(path: Path) -> list[tuple[str, int, Any]]:
    """Topic, log time and decoded content of each message, in the order of the log times."""
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True, decoder_factories=[DecoderFactory()])
        return [
            (channel.topic, message.log_time, content)
            for _, channel, message, content in reader.iter_decoded_messages()
        ]


def test_the_schemas_are_those_of_the_ros_package() -> None:
    ours = Path(messages.__file__).parent / "sinks" / "msg"
    theirs = ROOT / "ros2_ws" / "src" / "edgeseg_msgs" / "msg"
    assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()}
    for path in ours.iterdir():
        assert path.read_bytes() == (theirs / path.name).read_bytes(), path.name


def test_readers_find_schemas_channels_and_an_index(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    with McapSink(path, **LABELS) as sink:
        for number in range(40):
            sink.write(frame(number), instances(3, number))
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        assert reader.get_header().profile == "ros2"
        summary = reader.get_summary()
    assert summary is not None and summary.statistics is not None
    names = {row.id: row.name for row in summary.schemas.values()}
    assert {row.topic: names[row.schema_id] for row in summary.channels.values()} == TOPICS
    assert {row.message_encoding for row in summary.channels.values()} == {"cdr"}
    counts = summary.statistics.channel_message_counts
    assert {row.topic: counts[row.id] for row in summary.channels.values()} == {
        "/edgeseg/label_info": 1,
        "/edgeseg/instances": 40,
        "/edgeseg/label_map": 40,
    }
    for schema in summary.schemas.values():
        assert schema.encoding == "ros2msg"
        text = schema.data.decode()
        for part in ("std_msgs/Header", "builtin_interfaces/Time"):
            assert f"{'=' * 80}\nMSG: {part}\n" in text, "the whole definition, parts included"
    assert {row.compression for row in summary.chunk_indexes} == {"zstd"}


@pytest.mark.parametrize("count", [0, 1, 12, 254, 255])
def test_masks_come_back_exactly(count: int, tmp_path: Path) -> None:
    seen = instances(count)
    assert len(seen) == count
    head = BagHeader(SimpleNamespace(sec=-1, nanosec=2**32 - 1), "left_optical", START_NS)
    with McapSink(tmp_path / "a.mcap", **LABELS) as sink:
        sink.write(frame(0, head), seen)
    (_, _, info), (_, _, found), (_, _, picture) = read(tmp_path / "a.mcap")
    assert (info.model, info.model_sha256) == ("nano", "ab" * 32)
    assert (info.class_names, info.score_threshold) == (["mug", "can"], 0.25)
    for message in (found, picture):
        assert (message.header.stamp.sec, message.header.stamp.nanosec) == (-1, 2**32 - 1)
        assert message.header.frame_id == "left_optical"
        assert (message.height, message.width) == (48, 64)
    masks = messages.masks(found)
    assert masks.shape == (count, 48, 64)
    for i in range(count):
        np.testing.assert_array_equal(masks[i], seen.mask(i))
    assert found.ids == [*range(count)] and found.class_ids == seen.labels.tolist()
    np.testing.assert_array_equal(np.float32(found.scores), seen.scores)
    np.testing.assert_array_equal(np.float32(found.boxes_xyxy), seen.boxes_xyxy.reshape(-1))
    deep = count > 254
    assert (picture.encoding, picture.step) == (("mono16", 128) if deep else ("mono8", 64))
    pixels = np.frombuffer(bytes(picture.data), "<u2" if deep else np.uint8).reshape(48, 64)
    np.testing.assert_array_equal(pixels, seen.label_map())
    assert picture.is_bigendian == 0


def test_frames_without_a_header_give_their_own_stamp(tmp_path: Path) -> None:
    seen = instances(2)
    late = Frame(np.zeros((48, 64), np.uint8), "mono8", stamp_ns=7_000_000_009, frame_id="eye")
    with McapSink(tmp_path / "a.mcap") as sink:
        sink.write(late, seen)
    for topic, time_ns, message in read(tmp_path / "a.mcap"):
        assert time_ns == 7_000_000_009
        stamp = message.header.stamp
        assert (stamp.sec, stamp.nanosec) == (7, 9)
        assert message.header.frame_id == ("" if topic == "/edgeseg/label_info" else "eye")


def test_a_time_before_the_epoch_is_logged_at_the_epoch(tmp_path: Path) -> None:
    head = BagHeader(SimpleNamespace(sec=0, nanosec=0), "", -5)
    with McapSink(tmp_path / "a.mcap") as sink:
        sink.write(frame(0, head), instances(1))
    assert [time_ns for _, time_ns, _ in read(tmp_path / "a.mcap")] == [0, 0, 0]


def test_label_maps_are_small(tmp_path: Path) -> None:
    full = np.zeros((6, 480, 640), bool)
    for i in range(6):
        full[i, 60 * i : 60 * i + 100, 90 * i : 90 * i + 150] = True
    seen = from_masks(full, [0.9] * 6, [0] * 6)
    large = Frame(np.zeros((480, 640, 3), np.uint8), "bgr8")
    with McapSink(tmp_path / "a.mcap") as sink:
        for _ in range(30):
            sink.write(large, seen)
    assert (tmp_path / "a.mcap").stat().st_size < 30 * 640 * 480 * 0.02


def test_another_suffix_is_told(tmp_path: Path) -> None:
    for name in ("a.bag", "a", "mcap"):
        with pytest.raises(InputError) as caught:
            McapSink(tmp_path / name)
        assert str(caught.value) == (
            f"got a bag named {name!r}; wanted a name that ends in .mcap; rename it"
        )
    assert not list(tmp_path.iterdir())


# From bag to bag.


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures of two bright squares, one of them damaged; stamps 3 s behind the receipt."""
    from conftest import blobs

    sent = at_30_hz(
        image(blobs(number), head=header(START_NS - 3 * 10**9 + number, "left_optical"))
        for number in range(8)
    )
    sent[5][2].encoding = "16UC1"
    topics = [("/rear/image_raw", "sensor_msgs/msg/Image")]
    return write_bag(tmp_path_factory.mktemp("bags") / "blobs", sent, topics=topics).parent


def test_run_writes_what_the_segmenter_sees(edgeseg_cli: Any, bag: Path, tmp_path: Path) -> None:
    from hashlib import sha256

    from edgeseg.segmenter import load

    out = tmp_path / "masks.mcap"
    words = ("--topic", TOPIC, "--mcap", out, "--score-threshold", "0.0")
    spoken = edgeseg_cli("run", bag, *words)
    assert spoken.code == 0, spoken.err
    assert str(out) in spoken.out and "corrupt 1" in spoken.out
    with load("fastinst-nano", score_threshold=0.0) as segmenter, open_camera(bag) as camera:
        wanted = [(one, segmenter(one)) for one in camera]
    assert len(wanted) == 7 and any(len(seen) for _, seen in wanted)
    with AnyReader([out]) as reader:
        got = [
            (row.topic, time_ns, reader.deserialize(raw, row.msgtype))
            for row, time_ns, raw in reader.messages()
        ]
    (info,) = (message for topic, _, message in got if topic == "/edgeseg/label_info")
    index = ROOT / "edgeseg" / "bundles" / "fastinst-nano" / "bundle.json"
    assert (info.model, info.score_threshold) == ("fastinst-nano", 0.0)
    assert info.model_sha256 == sha256(index.read_bytes()).hexdigest()
    assert info.class_names[:2] == ["box", "ball"]
    found = [(time_ns, one) for topic, time_ns, one in got if topic == "/edgeseg/instances"]
    for (time_ns, message), (one, seen) in zip(found, wanted, strict=True):
        assert time_ns == one.header.received_ns, "beside the picture, whatever the stamps say"
        assert message.header.stamp.nanosec == one.header.stamp.nanosec
        assert message.header.stamp.sec == one.header.stamp.sec == (START_NS // 10**9) - 3
        assert message.header.frame_id == "left_optical"
        masks = messages.masks(message)
        assert len(masks) == len(seen)
        for i in range(len(seen)):
            np.testing.assert_array_equal(masks[i], seen.mask(i))
    with open_camera(out) as camera:
        assert (camera.topic, camera.frame_count) == ("/edgeseg/label_map", 7)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("bag", "--mcap", "bag/blobs.mcap"), "'bag/blobs.mcap', which is the source's blobs.mcap"),
        (("bag", "--out", "bag/metadata.yaml"), "which is the source's metadata.yaml; wanted"),
        (("bag/blobs.mcap", "--mcap", "bag/blobs.mcap"), "which is the source; wanted another"),
        (("bag:link.mcap", "--mcap", "bag/blobs.mcap"), "which is the source; wanted another"),
        (("bag", "--mcap", "link.mcap"), "'link.mcap', which is the source's blobs.mcap; wanted"),
        (("bag", "--mcap", "a.mcap", "--out", "a.mcap"), "'a.mcap', which is --out; wanted"),
        (("bag", "--mcap", "a.bag"), "got a bag named 'a.bag'; wanted a name that ends in .mcap"),
        (("bag", "--mcap", "bag"), "got a folder named 'bag'; wanted to write a file"),
        (("bag", "--topic", "/rear/image"), "did you mean '/rear/image_raw'?"),
    ],
)
def test_run_never_replaces_the_bag(
    words: tuple[str, ...],
    text: str,
    edgeseg_cli: Any,
    bag: Path,
    fake_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bag").symlink_to(bag)
    Path("link.mcap").symlink_to(bag / "blobs.mcap")
    before = {path: path.read_bytes() for path in bag.iterdir()}
    spoken = edgeseg_cli("run", *words, "--model", fake_bundle, "--engine", "fake")
    assert spoken.code == 2 and text in spoken.err and spoken.err.count("\n") == 1
    assert {path: path.read_bytes() for path in bag.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"bag", "link.mcap"}


def test_a_topic_for_what_has_none_is_told(
    edgeseg_cli: Any, video: Path, fake_bundle: Path
) -> None:
    words = ("--topic", "/a", "--model", fake_bundle, "--engine", "fake")
    spoken = edgeseg_cli("run", video, *words)
    assert (spoken.code, spoken.err) == (
        2,
        "edgeseg run: got setting 'topic' for camera 'files'; wanted one that it has; see "
        "help(open_camera)\n",
    )
