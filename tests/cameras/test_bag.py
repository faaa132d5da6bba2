"""ROS 2 bags as a camera: what becomes a Frame, what is refused, and with which words."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import ros_bags
from ros_bags import START_NS, TOPIC, at_30_hz, compressed, header, image, packed, write_bag

from edgeseg.cameras import open_camera
from edgeseg.cameras.bag import BagCamera
from edgeseg.errors import CameraError, EdgesegError, InputError
from edgeseg.frame import Frame

STORAGES = ("mcap", "sqlite3")
NOISE = np.random.default_rng(5).integers(0, 256, (30, 40, 3), np.uint8)
OTHER = "/rear/image/compressed"
KINDS = "sensor_msgs/msg/Image or sensor_msgs/msg/CompressedImage"


def frames(path: Path | str, **settings: Any) -> tuple[BagCamera, list[Frame]]:
    """The camera, closed, and all of its frames."""
    with open_camera(path, **settings) as camera:
        assert isinstance(camera, BagCamera)
        return camera, list(camera)


# What becomes a Frame.


@pytest.mark.parametrize(
    ("storage", "compression"),
    [(one, how) for one in STORAGES for how in ("none", "message", "file")] + [("mcap", "storage")],
)
def test_every_storage_gives_the_pixels_and_headers(
    storage: str, compression: str, tmp_path: Path
) -> None:
    stamps = [START_NS - 7_000_000 * i for i in range(5)]  # going back
    pictures = [np.roll(NOISE, i) for i in range(5)]
    sent = at_30_hz(
        image(picture, head=header(stamp, f"frame{i}"))
        for i, (picture, stamp) in enumerate(zip(pictures, stamps, strict=True))
    )
    file = write_bag(tmp_path / "bag", sent, storage=storage, compression=compression)
    for place in [file.parent] + [file] * (compression in ("none", "storage")):
        camera, got = frames(place)
        assert (camera.frame_count, camera.fps, camera.topic) == (5, 30.0, TOPIC)
        assert camera.dropped == {"driver": 0, "corrupt": 0} and camera.copies == 0
        for i, (frame, picture) in enumerate(zip(got, pictures, strict=True)):
            np.testing.assert_array_equal(frame.pixels, picture)
            assert (frame.format, frame.sequence, frame.frame_id) == ("bgr8", i, f"frame{i}")
            stamp = frame.header.stamp
            assert (stamp.sec, stamp.nanosec) == divmod(stamps[i], 10**9)
            assert (frame.header.frame_id, frame.header.received_ns) == (f"frame{i}", sent[i][1])


def test_stamps_of_any_kind_are_passed_on(tmp_path: Path) -> None:
    stamps = [(0, 0), (-1, 2**32 - 1), (2**31 - 1, 0), (5, 0), (4, 999_999_999)]
    heads = [ros_bags.make("std_msgs/msg/Header", ros_bags.time(*stamp), "") for stamp in stamps]
    file = write_bag(tmp_path / "bag", at_30_hz(image(NOISE, head=head) for head in heads))
    _, got = frames(file)
    assert [(one.header.stamp.sec, one.header.stamp.nanosec) for one in got] == stamps
    assert all(a.stamp_ns <= b.stamp_ns for a, b in pairwise(got))


@pytest.mark.parametrize("storage", STORAGES)
def test_frames_come_in_the_order_of_their_receipt(storage: str, tmp_path: Path) -> None:
    times = [5, 1, 3, 3, 2, 0, 4]
    sent = [
        (TOPIC, START_NS + at * 10**8, image(np.full_like(NOISE, number)))
        for number, at in enumerate(times)
    ]
    file = write_bag(tmp_path / "bag", sent, storage=storage)
    for live in (False, True):
        _, got = frames(file, live=live)
        assert [int(frame.pixels[0, 0, 0]) for frame in got] == [5, 1, 4, 2, 3, 6, 0]


def test_size_and_encoding_may_change(tmp_path: Path) -> None:
    grey, padded = NOISE[:, :, 0], np.pad(NOISE, ((0, 0), (0, 3), (0, 0)))
    messages = [
        image(NOISE, "rgb8"),
        image(grey, "mono8"),
        image(NOISE[:10, :20], "bgr8"),
        image(padded, "bgr8", width=40),
        image(NOISE[:, :, :2], "yuv422_yuy2"),
        compressed(grey),
        compressed(np.dstack([NOISE, grey])),
    ]
    camera, got = frames(write_bag(tmp_path / "bag", at_30_hz(messages)))
    assert [(frame.format, frame.height, frame.width) for frame in got] == [
        ("rgb8", 30, 40),
        ("mono8", 30, 40),
        ("bgr8", 10, 20),
        ("bgr8", 30, 40),
        ("yuyv", 30, 40),
        ("mono8", 30, 40),
        ("bgra8", 30, 40),
    ]
    assert (camera.width, camera.height) == (40, 30)
    np.testing.assert_array_equal(got[3].pixels, NOISE)
    np.testing.assert_array_equal(got[5].pixels, grey)
    np.testing.assert_array_equal(got[6].pixels[:, :, :3], NOISE)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_compressed_pictures_are_decoded(suffix: str, tmp_path: Path) -> None:
    smooth = cv2.resize(NOISE[:3, :4], (40, 30), interpolation=cv2.INTER_LINEAR)
    sent = at_30_hz([compressed(smooth, suffix, header(frame_id="eye"))] * 2, OTHER)
    camera, got = frames(write_bag(tmp_path / "bag", sent))
    assert camera.topic == OTHER and len(got) == 2
    assert got[0].frame_id == got[0].header.frame_id == "eye"
    assert np.abs(got[0].pixels.astype(int) - smooth).mean() < 8


def test_messages_of_other_types_are_passed_over(tmp_path: Path) -> None:
    sent = at_30_hz([image(NOISE), ros_bags.battery(), image(NOISE)])
    sent = [(TOPIC if i != 1 else "/battery", at, one) for i, (_, at, one) in enumerate(sent)]
    for storage in STORAGES:
        camera, got = frames(write_bag(tmp_path / storage, sent, storage=storage))
        assert camera.frame_count == len(got) == 2


def test_a_bag_of_several_files(tmp_path: Path) -> None:
    sent = at_30_hz(image(np.full_like(NOISE, number)) for number in range(6))
    first = write_bag(tmp_path / "bag", sent[:4])
    second = write_bag(tmp_path / "more", sent[4:])
    shutil.move(second, first.parent)
    index = first.parent / "metadata.yaml"
    text = index.read_text("utf-8")
    index.write_text(text.replace("  - bag.mcap\n", "  - bag.mcap\n  - more.mcap\n", 1))
    assert "more.mcap" in index.read_text("utf-8")
    camera, got = frames(first.parent)
    assert camera.frame_count == 6
    assert [int(frame.pixels[0, 0, 0]) for frame in got] == [*range(6)]


def test_metadata_may_tell_another_quality_of_service(tmp_path: Path) -> None:
    """Converted bags do; rosbags itself then finds no message."""
    file = write_bag(tmp_path / "bag", at_30_hz([image(NOISE)] * 3))
    index = file.parent / "metadata.yaml"
    text = index.read_text("utf-8")
    qos = "{history: 1, depth: 9, reliability: 1, durability: 2, deadline: {sec: 0, nsec: 0}, "
    qos += "lifespan: {sec: 0, nsec: 0}, liveliness: 1, liveliness_lease_duration: "
    qos += "{sec: 0, nsec: 0}, avoid_ros_namespace_conventions: false}"
    assert "offered_qos_profiles: []" in text
    index.write_text(text.replace("offered_qos_profiles: []", f"offered_qos_profiles: [{qos}]"))
    camera, got = frames(file.parent)
    assert camera.frame_count == len(got) == 3


def test_any_spec_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_bag(tmp_path / "bag", at_30_hz([image(NOISE)]))
    odd = tmp_path / "recording.0001"
    file.rename(odd.with_suffix(".mcap"))
    monkeypatch.chdir(tmp_path)
    for spec in ("recording.mcap", "files:recording.mcap", "bag:recording.mcap", Path("bag")):
        if spec == Path("bag"):
            odd.with_suffix(".mcap").rename(file)
        assert len(frames(spec)[1]) == 1
    cv2.imwrite("bag/thumbnail.png", NOISE)
    assert len(frames("bag")[1]) == 1
    Path("pictures").mkdir()
    cv2.imwrite("pictures/a.png", NOISE)
    for stranger in ("masks.mcap", "metadata.yaml"):
        Path("pictures", stranger).touch()
        assert not isinstance(open_camera("pictures"), BagCamera)
        Path("pictures", stranger).unlink()
    with pytest.raises(CameraError, match=r"wanted a rosbag2 file \(.mcap, .db3\) or its folder"):
        open_camera("bag:pictures/a.png")


# Pace.


def test_live_keeps_the_recorded_pace(tmp_path: Path) -> None:
    offsets_ms = [0, 50, 60, 260, 200, 300]  # 200 comes back before 260
    sent = [(TOPIC, START_NS + at * 10**6, image(NOISE)) for at in offsets_ms]
    with open_camera(write_bag(tmp_path / "bag", sent), live=True) as camera:
        assert camera.live
        stamps = [frame.stamp_ns for frame in camera]
        assert stamps[-1] <= time.monotonic_ns()
    got = [(stamp - stamps[0]) / 1e6 for stamp in stamps]
    assert got == sorted(offsets_ms)


def test_a_late_reader_of_a_live_bag_loses_what_is_no_longer_the_newest(tmp_path: Path) -> None:
    offsets_ms = [0, 10, 20, 30, 40, 400]
    sent = [(TOPIC, START_NS + at * 10**6, image(NOISE)) for at in offsets_ms]
    with open_camera(write_bag(tmp_path / "bag", sent), live=True) as camera:
        first = next(camera)
        time.sleep(0.15)
        sequences = [first.sequence, *(frame.sequence for frame in camera)]
    assert sequences == [0, 4, 5], "the newest picture is never lost, however old"
    assert camera.dropped == {"driver": 3, "corrupt": 0}


@pytest.mark.parametrize(
    ("offsets_ms", "fps"),
    [([0], 30.0), ([7, 7, 7], 30.0), ([0, 100, 200, 900, 1000], 10.0), ([0, 10**7], 30.0)],
)
def test_the_rate_is_the_usual_one(offsets_ms: list[int], fps: float, tmp_path: Path) -> None:
    sent = [(TOPIC, START_NS + at * 10**6, image(NOISE)) for at in offsets_ms]
    assert frames(write_bag(tmp_path / "bag", sent))[0].fps == fps


@pytest.mark.parametrize("storage", STORAGES)
def test_memory_stays_flat_over_a_long_bag(storage: str, tmp_path: Path) -> None:
    large = np.zeros((240, 320, 3), np.uint8)
    file = write_bag(tmp_path / "bag", at_30_hz([image(large)] * 150), storage=storage)
    assert file.stat().st_size > 30e6
    tracemalloc.start()
    try:
        with open_camera(file) as camera:
            for frame in camera:
                frame.release()
        assert tracemalloc.get_traced_memory()[1] < 9e6
    finally:
        tracemalloc.stop()


# Topics.


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bag with two image topics, one without a message, and a battery."""
    sent = [
        *at_30_hz([image(NOISE)] * 3),
        *at_30_hz([compressed(NOISE)] * 2, OTHER),
        ("/battery", START_NS, ros_bags.battery()),
    ]
    topics = [("/camera/image_rect", "sensor_msgs/msg/Image")]
    return write_bag(tmp_path_factory.mktemp("bags") / "two", sent, topics=topics)


def test_a_topic_is_chosen_by_its_name(two: Path) -> None:
    assert len(frames(two, topic=TOPIC)[1]) == 3
    assert len(frames(two, topic=OTHER)[1]) == 2
    assert frames(two, topic=TOPIC[1:])[0].topic == TOPIC, "the slash may be left out"


@pytest.mark.parametrize(
    ("topic", "text"),
    [
        (
            None,
            "got 3 image topics in {path!r} (/camera/image_rect: 0 sensor_msgs/msg/Image, "
            "/camera/image_raw: 3 sensor_msgs/msg/Image, /rear/image/compressed: 2 "
            "sensor_msgs/msg/CompressedImage); wanted one; name it with --topic NAME (topic= in "
            "Python)",
        ),
        (
            "/camera/image_rwa",
            "got topic '/camera/image_rwa'; wanted one of /camera/image_raw, /camera/image_rect, "
            "/rear/image/compressed; did you mean '/camera/image_raw'?",
        ),
        (
            "/battery",
            f"got topic '/battery' of type my_msgs/msg/Battery; wanted {KINDS}; choose among "
            "/camera/image_rect: 0 sensor_msgs/msg/Image, /camera/image_raw: 3 "
            "sensor_msgs/msg/Image, /rear/image/compressed: 2 sensor_msgs/msg/CompressedImage",
        ),
        (
            "/camera/image_rect",
            "got no message on '/camera/image_rect' of {path!r}, which announces 0; wanted at "
            "least one; choose another topic, or record it again",
        ),
    ],
)
def test_a_wrong_topic_is_told(two: Path, topic: str | None, text: str) -> None:
    for place in (two, two.parent):
        with pytest.raises(EdgesegError) as caught:
            open_camera(place, topic=topic)
        kind = CameraError if topic == "/camera/image_rect" else InputError
        assert isinstance(caught.value, kind)
        assert str(caught.value) == text.format(path=str(place))


def test_the_only_topic_with_messages_needs_no_name(tmp_path: Path) -> None:
    topics = [(OTHER, "sensor_msgs/msg/CompressedImage")]
    file = write_bag(tmp_path / "bag", at_30_hz([image(NOISE)]), topics=topics)
    assert frames(file)[0].topic == TOPIC


@pytest.mark.parametrize(
    ("names", "text"),
    [((), "none"), (("/a", "/b"), "/a, /b"), ("abcdefghij", "a, b, c, d, e, f, g, h, ...")],
)
def test_a_bag_without_an_image_topic_is_told(
    names: tuple[str, ...], text: str, tmp_path: Path
) -> None:
    sent = [(name, START_NS, ros_bags.battery()) for name in names]
    file = write_bag(tmp_path / "bag", sent)
    with pytest.raises(CameraError) as caught:
        open_camera(file)
    assert str(caught.value) == (
        f"got a bag {str(file)!r} without an image topic (it has {text}); wanted {KINDS}; choose "
        "another"
    )


# Messages that hold no picture.

DEEP = np.zeros((30, 40), np.uint16)
BAD = {
    "uint16": (image(DEEP, "16UC1"), "got encoding '16UC1'; wanted one of rgb8, bgr8"),
    "unknown": (image(NOISE, "hsv8"), "got encoding 'hsv8'; wanted one of rgb8, bgr8"),
    "no encoding": (image(NOISE, ""), "got encoding ''; wanted one of rgb8, bgr8"),
    "empty": (image(NOISE, height=0), "got an image of 40x0; wanted "),
    "absurd": (image(NOISE, height=2**31, width=2**31), "got an image of 2147483648x"),
    "short step": (image(NOISE, step=119), "got step 119 for 40 pixels of bgr8; wanted at least"),
    "short data": (image(NOISE, height=31), "got 3600 bytes for 40x31 bgr8 with step 120; wanted"),
    "no data": (packed(b""), f"got {TOPIC!r}, which is no picture that can be read; wanted PNG,"),
    "depth": (packed(bytes(12) + b"\x89PNG\r\n\x1a\n"), f"got {TOPIC!r}, which is no picture"),
    "deep PNG": (compressed(DEEP), f"got a picture {TOPIC!r} of 16 bits per channel; wanted 8; "),
    "cut JPEG": (
        packed(bytes(cv2.imencode(".jpg", NOISE)[1])[:-200]),
        f"got a picture {TOPIC!r} that is cut short or damaged; wanted a whole file; copy it again",
    ),
    "large PNG": (
        packed(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"\0\1\0\0" * 2 + bytes(9)),
        f"got a picture {TOPIC!r} of 65536x65536 pixels; wanted at most 64 megapixels",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_messages_are_counted_and_told_when_there_is_nothing_else(
    name: str, tmp_path: Path
) -> None:
    bad, reason = BAD[name]
    good = image(NOISE) if bad.__msgtype__.endswith("/Image") else compressed(NOISE)
    file = write_bag(tmp_path / "mixed", at_30_hz([bad, good, bad, bad, good, bad]))
    camera, got = frames(file)
    assert camera.dropped == {"driver": 0, "corrupt": 4}
    assert [frame.sequence for frame in got] == [1, 4]
    file = write_bag(tmp_path / "bad", at_30_hz([bad, *BAD["uint16"][:1], bad]))
    with pytest.raises(CameraError) as caught:
        open_camera(file)
    start = f"got no readable picture on {TOPIC!r} of {str(file)!r}; the first message says: "
    assert str(caught.value).startswith(start + reason)
    assert "\n" not in str(caught.value)


def test_damaged_messages_are_counted(tmp_path: Path) -> None:
    """The bytes of a message itself: cut, of another type, or of another coding."""
    kind, types = "sensor_msgs/msg/Image", ros_bags.TYPES
    good = bytes(types.serialize_cdr(image(NOISE), kind))
    flat = bytes(types.serialize_cdr(ros_bags.battery(), "my_msgs/msg/Battery"))
    raws = [good[:n] for n in (0, 3, 4, 5, 20, 30, 50, 200, len(good) - 1)]
    raws += [flat, b"\0\1\0\0" + b"\xff" * 80, b"\0\3" + good[2:], good + bytes(50), good]
    with ros_bags.Writer(tmp_path / "bag", version=9) as writer:
        row = writer.add_connection(TOPIC, kind, typestore=types)
        for number, raw in enumerate(raws):
            writer.write(row, START_NS + number, raw)
    camera, got = frames(tmp_path / "bag")
    assert [frame.sequence for frame in got] == [len(raws) - 1]
    assert camera.dropped["corrupt"] == len(raws) - 1


def test_a_topic_of_unreadable_messages_is_given_up_early(tmp_path: Path) -> None:
    bad, good = BAD["uint16"][0], image(NOISE)
    camera, got = frames(write_bag(tmp_path / "late", at_30_hz([bad] * 99 + [good])))
    assert len(got) == 1 and camera.dropped["corrupt"] == 99
    with pytest.raises(CameraError, match="got no readable picture on"):
        open_camera(write_bag(tmp_path / "later", at_30_hz([bad] * 100 + [good])))


# Damage.


def test_messages_that_are_announced_but_missing_are_counted(tmp_path: Path) -> None:
    """A log time outside its chunk's range hides a message; the statistics still count it."""
    file = write_bag(tmp_path / "bag", at_30_hz([image(NOISE)] * 5))
    data, last_ns = file.read_bytes(), START_NS + 4 * ros_bags.PERIOD_NS
    record = (last_ns.to_bytes(8, "little")) * 2  # log time and publish time of the last message
    assert data.count(record) == 1
    file.write_bytes(data.replace(record, (last_ns + 10**12).to_bytes(8, "little") * 2))
    camera, got = frames(file)
    assert len(got) == 4 and camera.frame_count == 5 and camera.dropped["corrupt"] == 1


def told(path: Path) -> str:
    """What opening and reading a damaged bag says, or nothing where it goes well."""
    try:
        camera, got = frames(path)
    except EdgesegError as error:
        assert "\n" not in str(error) and 3 <= len(str(error).split("; ")) <= 8
        return str(error)
    assert len(got) + camera.dropped["corrupt"] >= 1
    return ""


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("place", ["file", "folder"])
def test_a_bag_that_is_cut_is_told(storage: str, place: str, tmp_path: Path) -> None:
    file = write_bag(tmp_path / "bag", at_30_hz([image(NOISE)] * 5), storage=storage)
    whole, target = file.read_bytes(), file if place == "file" else file.parent
    for size in [*range(1, 60, 4), *np.linspace(60, len(whole) - 1, 60, dtype=int).tolist()]:
        file.write_bytes(whole[:size])
        text = told(target)
        if storage == "mcap" or size < 0.9 * len(whole):  # SQLite may not need its last pages
            assert text.startswith(f"got a bag {str(target)!r} that can't be read ("), size
            assert text.endswith(
                "; wanted a whole one; copy it again, or mend it with 'mcap recover' or 'ros2 bag "
                "reindex'"
            )


@pytest.mark.parametrize("storage", STORAGES)
def test_flipped_bytes_never_raise_what_is_not_ours(storage: str, tmp_path: Path) -> None:
    small = NOISE[:4, :6]
    compression = "storage" if storage == "mcap" else "none"
    sent = [*at_30_hz([image(small)] * 3), ("/battery", START_NS, ros_bags.battery())]
    file = write_bag(tmp_path / "bag", sent, storage=storage, compression=compression)
    whole, random = file.read_bytes(), np.random.default_rng(3)
    errors = 0
    for _ in range(300):
        data = bytearray(whole)
        for at in random.integers(0, len(whole), random.integers(1, 12)):
            data[at] = random.integers(0, 256)
        file.write_bytes(data)
        errors += bool(told(file))
    assert errors > (200 if storage == "mcap" else 5)


PLACES = {
    "missing": (
        "no.mcap",
        "got no file '{}'; wanted a video, a picture, a folder of pictures or a bag; check the "
        "path",
    ),
    "empty": ("empty.mcap", "got an empty file '{}'; wanted a bag; copy or record it again"),
    "no bag": ("text.db3", "got a bag '{}' that can't be read (Cannot open database "),
    "no MCAP": ("text.mcap", "got a bag '{}' that can't be read (File magic is invalid); wanted"),
    "ROS 1": (
        "old.bag",
        "got '{}'; wanted a rosbag2 file (.mcap, .db3) or its folder; convert a bag of ROS 1 with "
        "'rosbags-convert'",
    ),
    "no metadata": (
        "headless",
        "got a folder '{}' without metadata.yaml; wanted a whole bag; name the file in it, or run "
        "'ros2 bag reindex'",
    ),
    "metadata of nothing": ("hollow", "got a bag '{}' that can't be read (Some database files are"),
    "no YAML": ("garbage", "got a bag '{}' that can't be read (Could not load YAML from "),
    "other YAML": ("strange", "got a bag '{}' that can't be read ("),
}


@pytest.mark.parametrize("name", PLACES)
def test_what_is_no_bag_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty.mcap").touch()
    for text in ("text.mcap", "text.db3", "old.bag"):
        (tmp_path / text).write_text("nothing to see here, but long enough to look at\n" * 20)
    for folder in ("headless", "hollow", "garbage", "strange"):
        write_bag(tmp_path / folder, at_30_hz([image(NOISE)]))
    (tmp_path / "headless" / "metadata.yaml").unlink()
    (tmp_path / "hollow" / "hollow.mcap").unlink()
    (tmp_path / "garbage" / "metadata.yaml").write_text("a: [\n\n{")
    (tmp_path / "strange" / "metadata.yaml").write_text("[1, 2]")
    where, text = PLACES[name]
    with pytest.raises(CameraError) as caught:
        open_camera(tmp_path / where)
    assert str(caught.value).startswith(text.format(tmp_path / where))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["run #3", "why?", "50%20", "Lauf & =ü"])
def test_names_that_sqlite_takes_for_something_else(name: str, tmp_path: Path) -> None:
    assert len(frames(write_bag(tmp_path / name, at_30_hz([image(NOISE)])))[1]) == 1
    plain = write_bag(tmp_path / "plain", at_30_hz([image(NOISE)]), storage="sqlite3")
    file = plain.rename(tmp_path / name / "plain.db3")
    if name.startswith("Lauf"):
        assert len(frames(file)[1]) == 1
        return
    with pytest.raises(CameraError) as caught:
        open_camera(file)
    assert str(caught.value).endswith(
        "; wanted a whole one; rename it: SQLite bags can't be opened by a path with ?, # or %"
    )


def test_a_missing_rosbags_names_the_extra(tmp_path: Path) -> None:
    file = write_bag(tmp_path / "bag", at_30_hz([image(NOISE)]))
    code = (
        "import sys\nfrom edgeseg.cli import main\n"
        "class Without:\n    def find_spec(name, *_):\n        if name == 'rosbags':\n"
        "            raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Without)\n"
        f"sys.exit(main(['run', {str(file)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        3,
        "edgeseg run: got no module 'rosbags'; this part needs it; run: pip install "
        "'edgeseg[bag]'\n",
    )
