"""Files that are not what they should be, and files of every kind."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from edgeseg.cameras import open_camera
from edgeseg.cameras.base import BufferPool, check_size
from edgeseg.cameras.headers import Header, read_header
from edgeseg.errors import CameraError, EdgesegError, InputError
from edgeseg.frame import MAX_PIXELS

RANDOM = np.random.default_rng(0)
NOISE = cv2.GaussianBlur(RANDOM.integers(0, 256, (60, 80, 3), np.uint8), (0, 0), 2)


def write_video(
    path: Path, pictures: list[np.ndarray], options: dict[str, str] | None = None, **settings: int
) -> bytes:
    height, width = pictures[0].shape[:2]
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "12", "g": "12"})
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p" if width % 2 == height % 2 == 0 else "yuv444p"
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "bgr24")
            if settings:
                frame = frame.reformat(format="yuv420p", dst_colorspace=settings["colorspace"])
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


def walk(count: int, height: int = 96, width: int = 128) -> list[np.ndarray]:
    big = RANDOM.integers(0, 256, (height + count, width + count, 3), np.uint8)
    big = cv2.GaussianBlur(big, (0, 0), 2)
    return [big[n : n + height, n : n + width] for n in range(count)]


def chunk(kind: bytes, body: bytes) -> bytes:
    code = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + code


def png(width: int, height: int, bits: int = 8, colour: int = 2, chunks: bytes = b"") -> bytes:
    """A PNG of a size, by default with next to nothing in it."""
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunks or chunk(b"IDAT", zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


def encoded(suffix: str, picture: np.ndarray = NOISE) -> bytes:
    return bytes(cv2.imencode(suffix, picture)[1])


def cut(suffix: str, part: float = 0.6) -> bytes:
    whole = encoded(suffix)
    return whole[: int(len(whole) * part)]


def flipped(data: bytes, at: float) -> bytes:
    return (
        data[: int(len(data) * at)]
        + bytes([data[int(len(data) * at)] ^ 0x55])
        + data[int(len(data) * at) + 1 :]
    )


def cut_video(tmp_path: Path, *, index_first: bool) -> bytes:
    options = {"movflags": "faststart"} if index_first else {}
    data = write_video(tmp_path / "whole.mp4", walk(30), options)
    return data[: len(data) * 2 // 3]


BAD: dict[str, tuple[str, bytes | Callable[[Path], bytes], str]] = {
    "empty video": (
        "a.mp4",
        b"",
        "got an empty file '{}'; wanted a video; copy or record it again",
    ),
    "video without its index": (
        "a.mp4",
        lambda tmp: cut_video(tmp, index_first=False),
        "got '{}', which FFmpeg can't read as a video; wanted e.g. MP4, MKV or AVI; if it is one, "
        "it was cut short: copy or record it again",
    ),
    "text as a video": (
        "a.mp4",
        b"not a video\n" * 500,
        "got '{}', which FFmpeg can't read as a video; wanted e.g. MP4, MKV or AVI; if it is one, "
        "it was cut short: copy or record it again",
    ),
    "text that FFmpeg would draw": (
        "a.txt",
        b"hello\n" * 500,
        "got '{}', which FFmpeg can't read as a video; wanted e.g. MP4, MKV or AVI; if it is one, "
        "it was cut short: copy or record it again",
    ),
    "play list that leads elsewhere": (
        "a.m3u8",
        b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
        "got '{}', which FFmpeg can't read as a video; wanted e.g. MP4, MKV or AVI; if it is one, "
        "it was cut short: copy or record it again",
    ),
    "empty picture": ("a.png", b"", "got an empty file '{}'; wanted a picture; copy it again"),
    "text as a picture": (
        "a.jpg",
        b"hello",
        "got '{}', which is no picture that can be read; wanted PNG, JPEG, BMP, WebP, PGM or PPM; "
        "convert it, or copy it again",
    ),
    "picture of 0x0": (
        "a.png",
        png(0, 0),
        "got a picture '{}' of 0x0 pixels; wanted 1x1 or more; the file is damaged",
    ),
    "picture of 16000x16000": (
        "a.png",
        png(16000, 16000),
        "got a picture '{}' of 16000x16000 pixels; wanted at most 64 megapixels and 32768 a side; "
        "scale it down first",
    ),
    "picture with a long side": (
        "a.png",
        png(1, 40000),
        "got a picture '{}' of 1x40000 pixels; wanted at most 64 megapixels and 32768 a side; "
        "scale it down first",
    ),
    "picture of 16 bits": (
        "a.png",
        encoded(".png", NOISE[:, :, 0].astype(np.uint16) * 257),
        "got a picture '{}' of 16 bits per channel; wanted 8; scale the range that matters to "
        "0..255 first",
    ),
    "grey map of 16 bits": (
        "a.pgm",
        b"P5\n# from a depth camera\n2 1\n65535\n\0\1\0\2",
        "got a picture '{}' of 16 bits per channel; wanted 8; scale the range that matters to "
        "0..255 first",
    ),
    **{
        f"half a {suffix[1:]}": (
            f"a{suffix}",
            cut(suffix),
            "got a picture '{}' that is cut short or damaged; wanted a whole file; copy it again",
        )
        for suffix in (".png", ".jpg", ".bmp", ".webp", ".ppm")
    },
    "png with a flipped bit": (
        "a.png",
        flipped(encoded(".png"), 0.5),
        "got a picture '{}' that is cut short or damaged; wanted a whole file; copy it again",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_told_in_one_line(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, content, text = BAD[name]
    path = tmp_path / file
    path.write_bytes(content(tmp_path) if callable(content) else content)
    with pytest.raises((CameraError, InputError)) as caught:
        open_camera(path)
    assert str(caught.value) == text.format(path)
    assert capfd.readouterr() == ("", ""), "the library below has spoken, too"


def test_video_cut_short_behind_its_index(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(cut_video(tmp_path, index_first=True))
    with pytest.raises(CameraError, match=r"is cut short: \d+ of 30 frames lie behind its end; "):
        open_camera(path)


def test_huge_video_is_refused_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    data = write_video(path, walk(2))
    at = data.index(b"avc1", data.index(b"stsd")) + 28  # width and height of the sample entry
    path.write_bytes(data[:at] + struct.pack(">HH", 30000, 30000) + data[at + 4 :])
    try:
        with open_camera(path) as camera:  # the stream's own header may win: then it is small
            assert camera.width * camera.height <= MAX_PIXELS
    except CameraError as error:
        assert "30000x30000 pixels; wanted at most 64 megapixels" in str(error)


def test_huge_picture_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(16000, 16000))
    tracemalloc.start()
    start = time.thread_time()
    with pytest.raises(CameraError, match="16000x16000"):
        open_camera(path)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000 and time.thread_time() - start < 0.5
    tracemalloc.stop()


def test_opencv_has_the_limit_too() -> None:
    assert os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] == str(MAX_PIXELS)


PLACES = {
    "missing": (
        "nowhere.mp4",
        "got no file '{}'; wanted a video, a picture, a folder of pictures or a bag; check the "
        "path",
    ),
    "in a file": (
        "file.txt/a.png",
        "got no file '{}'; wanted a video, a picture, a folder of pictures or a bag; check the "
        "path",
    ),
    "empty folder": (
        "empty",
        "got a folder '{}' without a picture; wanted PNG, JPEG, BMP, WebP, PGM or PPM files in it; "
        "check the path",
    ),
    "pipe": (
        "pipe",
        "got the device or pipe '{}'; wanted a video, a picture, a folder of pictures or a bag; "
        "record it to a file first",
    ),
    "name too long": ("a" * 300 + ".mp4", "got File name too long for '{}'; wanted to read it; "),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_bad_place_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    where, text = PLACES[name]
    with pytest.raises(CameraError) as caught:
        open_camera(tmp_path / where)
    assert str(caught.value).startswith(text.format(tmp_path / where))


@pytest.fixture
def nobody() -> Iterator[None]:
    """Somebody without rights: root may read everything."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        yield
        os.seteuid(0)
    else:
        yield


@pytest.mark.parametrize("where", ["folder", "folder/a.png", "a.png", "a.mp4"])
def test_a_place_without_permission_is_told(where: str, tmp_path: Path, request) -> None:
    (tmp_path / "folder").mkdir()
    for file in ("folder/a.png", "a.png", "a.mp4"):
        (tmp_path / file).write_bytes(encoded(".png"))
        (tmp_path / file).chmod(0)
    (tmp_path / "folder").chmod(0)
    for parent in [tmp_path, *tmp_path.parents][:3]:
        parent.chmod(parent.stat().st_mode | 0o111)
    open_camera("synthetic").close()  # imports what needs root's files
    request.getfixturevalue("nobody")
    with pytest.raises(CameraError) as caught:
        open_camera(tmp_path / where)
    assert str(caught.value) == (
        f"got Permission denied for {str(tmp_path / where)!r}; wanted to read it; check its "
        "permissions and the disk"
    )


SPECS = {
    "synthetik": "got camera 'synthetik'; wanted one of bag, files, synthetic; did you mean "
    "'synthetic'?",
    "rtsp://me:secret@host/1": "got camera 'rtsp'; wanted one of bag, files, synthetic; this "
    "release reads no live cameras: record a file first",
    "frames": "got no file 'frames'; wanted a video, a picture, a folder of pictures or a bag; "
    "check the path",
    "synthetic:640": "got synthetic camera '640'; wanted WIDTHxHEIGHT@FPS?seconds=5&live=0, with "
    "settings of seconds, shapes, seed, live; e.g. 640x480@30?seconds=5",
    "synthetic:64x48?sedond=5": "got synthetic camera '64x48?sedond=5'; wanted WIDTHxHEIGHT@FPS?"
    "seconds=5&live=0, with settings of seconds, shapes, seed, live; e.g. 640x480@30?seconds=5",
    "synthetic:64x48@0": "got fps 0.0 for a synthetic camera; wanted a number, 0.001 to 100000; "
    "leave it out for the default",
    "synthetic:16000x16000": "got a synthetic picture of 16000x16000 pixels; wanted at most 64 "
    "megapixels and 32768 a side; scale it down first",
}


@pytest.mark.parametrize("spec", SPECS)
def test_a_bad_spec_is_told(spec: str) -> None:
    with pytest.raises(EdgesegError) as caught:
        open_camera(spec)
    assert str(caught.value) == SPECS[spec]


@pytest.mark.parametrize("number", [0, "0"])
def test_a_camera_number_is_told(number: int | str) -> None:
    with pytest.raises(CameraError) as caught:
        open_camera(number)
    assert str(caught.value) == (
        "got camera number 0; wanted a video, a picture, a folder, a bag or 'synthetic'; this "
        "release reads no live cameras: record a file first"
    )


def test_a_file_may_have_a_number_as_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("0").mkdir()
    with pytest.raises(CameraError, match="got a folder '0' without a picture"):
        open_camera("0")


@pytest.mark.parametrize("suffix", [".tiff", ".HEIC"])
def test_a_picture_of_another_kind_lists_the_kinds(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(b"II*\0")
    with pytest.raises(CameraError) as caught:
        open_camera(tmp_path / f"a{suffix}")
    assert str(caught.value) == (
        f"got picture '{tmp_path}/a{suffix}'; wanted one of .bmp, .jpeg, .jpg, .pgm, .png, .ppm, "
        ".webp; save it as PNG"
    )


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"fps": "x"}, "got fps 'x' for a synthetic camera; wanted a number, 0.001 to 100000; "),
        ({"seconds": "a"}, "got seconds 'a' for a synthetic camera; wanted a number, 0.001 to 1e+"),
        ({"shapes": 2.5}, "got shapes 2.5 for a synthetic camera; wanted a whole number, 0 to 254"),
        ({"seed": -1}, "got seed -1 for a synthetic camera; wanted a whole number, 0 to "),
        ({"width": "a"}, "got width 'a' for a synthetic camera; wanted a whole number, 1 to "),
        ({"height": 0}, "got height 0 for a synthetic camera; wanted a whole number, 1 to "),
        ({"fps": float("nan")}, "got fps nan for a synthetic camera; wanted a number, 0.001 to "),
    ],
)
def test_a_wrong_setting_of_the_synthetic_camera(settings: dict[str, object], text: str) -> None:
    with pytest.raises(InputError) as caught:
        open_camera("synthetic", **settings)
    assert str(caught.value).startswith(text)
    assert str(caught.value).endswith("; leave it out for the default")


def test_an_unknown_setting_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        open_camera("synthetic", speed=3)
    assert str(caught.value) == (
        "got setting 'speed' for camera 'synthetic'; wanted one that it has; see help(open_camera)"
    )


@pytest.mark.parametrize("fps", [0, -1, float("nan")])
def test_a_bad_rate_is_told(fps: float, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), NOISE)
    with pytest.raises(InputError, match=r"fps; wanted a number above 0, e\.g\. 30; leave it out"):
        open_camera(tmp_path, fps=fps)


KINDS = {
    "grey.png": (NOISE[:, :, 0], "mono8"),
    "grey.jpg": (NOISE[:, :, 0], "mono8"),
    "grey.pgm": (NOISE[:, :, 0], "mono8"),
    "colour.png": (NOISE, "bgr8"),
    "colour.jpg": (NOISE, "bgr8"),
    "colour.bmp": (NOISE, "bgr8"),
    "colour.ppm": (NOISE, "bgr8"),
    "colour.webp": (NOISE, "bgr8"),
    "clear.png": (np.dstack((NOISE, NOISE[:, :, 0])), "bgra8"),
    "CLEAR.WEBP": (np.dstack((NOISE, NOISE[:, :, 0])), "bgra8"),
    "dot.png": (NOISE[:1, :1], "bgr8"),
    "thread.png": (np.full((10000, 1, 3), 7, np.uint8), "bgr8"),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_picture(name: str, tmp_path: Path) -> None:
    picture, format_ = KINDS[name]
    cv2.imwrite(str(tmp_path / name), picture)
    with open_camera(tmp_path / name) as camera:
        (frame,) = camera
    assert frame.format == format_ and frame.pixels.shape == picture.shape
    difference = np.abs(frame.pixels.astype(int) - picture).mean()
    assert difference < (6 if name.lower().endswith(("jpg", "webp")) else 1e-9)


def test_a_palette_picture_is_colour(tmp_path: Path) -> None:
    palette = chunk(b"PLTE", bytes([255, 0, 0, 0, 255, 0]))
    data = png(2, 1, 8, 3, palette + chunk(b"IDAT", zlib.compress(b"\0\0\1")))
    assert read_header(data) == Header(2, 1)
    (tmp_path / "a.png").write_bytes(data)
    with open_camera(tmp_path / "a.png") as camera:
        (frame,) = camera
    assert frame.format == "bgr8" and frame.pixels.tolist() == [[[0, 0, 255], [0, 255, 0]]]


def test_exif_turns_a_photograph(tmp_path: Path) -> None:
    quarter_clockwise = struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
    exif = b"Exif\0\0MM\0\x2a" + struct.pack(">I", 8) + quarter_clockwise
    plain = bytes(cv2.imencode(".jpg", NOISE, [cv2.IMWRITE_JPEG_QUALITY, 98])[1])
    head = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    (tmp_path / "a.jpg").write_bytes(plain[:2] + head + plain[2:])
    with open_camera(tmp_path / "a.jpg") as camera:
        (frame,) = camera
    assert (camera.width, camera.height) == (60, 80)
    assert np.abs(frame.pixels.astype(int) - np.rot90(NOISE, -1)).mean() < 6


def test_a_folder_of_mixed_sizes_and_damage(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), NOISE)
    (tmp_path / "b.png").write_bytes(cut(".png"))
    cv2.imwrite(str(tmp_path / "c.jpg"), NOISE[:30, :20])
    (tmp_path / "notes.txt").write_text("not a picture")
    with open_camera(tmp_path) as camera:
        seen = [(frame.sequence, frame.width, frame.height) for frame in camera]
    assert seen == [(0, 80, 60), (2, 20, 30)]
    assert camera.dropped == {"driver": 0, "corrupt": 1} and camera.frame_count == 3


def test_a_folder_of_damage_only(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(cut(".png"))
    with pytest.raises(CameraError) as caught:
        open_camera(tmp_path)
    assert str(caught.value) == (
        f"got no readable picture in {str(tmp_path)!r} (2 damaged); wanted at least one; copy or "
        "record it again"
    )


def test_damaged_frames_of_a_video_are_counted_and_skipped(tmp_path: Path) -> None:
    data = bytearray(write_video(tmp_path / "a.mp4", walk(60)))
    for at in np.random.default_rng(1).integers(len(data) // 5, len(data) * 3 // 4, 12):
        data[at] ^= 0x55
    (tmp_path / "a.mp4").write_bytes(data)
    with open_camera(tmp_path / "a.mp4") as camera:
        sequences = [frame.sequence for frame in camera]
    assert 0 < camera.dropped["corrupt"] < 60
    assert len(sequences) + camera.dropped["corrupt"] == 60
    assert sequences == sorted(set(sequences)) and sequences[-1] == 59


def test_a_video_in_an_unknown_coding(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    data = write_video(path, walk(5))
    path.write_bytes(data.replace(b"avc1\0\0\0", b"zzzz\0\0\0"))
    with pytest.raises(CameraError) as caught:
        open_camera(path)
    assert str(caught.value) == (
        f"got a video {str(path)!r} in a coding that FFmpeg doesn't know; wanted e.g. H.264; "
        "convert it first"
    )


def test_a_sound_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(CameraError) as caught:
        open_camera(path)
    assert str(caught.value) == (
        f"got {str(path)!r} without a picture track; wanted a video; choose another file"
    )


def test_a_title_in_another_alphabet_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "a title of old"
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode())
    data = path.read_bytes()
    assert b"a title of old" in data
    path.write_bytes(data.replace(b"a title of old", b"a title \xe9\xff old"))
    with open_camera(path) as camera:
        assert len(list(camera)) == 1


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_no_noise_in_a_video_ends_in_a_crash(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}
    data = write_video(path, walk(6, 48, 64), options)
    random = np.random.default_rng(3)
    for _ in range(40):
        noisy = bytearray(data)
        for at in random.integers(0, 1500, random.integers(1, 30)):
            noisy[at] = int(random.integers(256))
        path.write_bytes(noisy)
        try:
            with open_camera(path) as camera:
                assert list(camera)
        except CameraError as error:
            assert str(error).startswith("got ") and "; wanted " in str(error)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts", ".mov"])
@pytest.mark.parametrize("size_hw", [(96, 128), (95, 127), (2, 2)])
def test_every_container_and_size(suffix: str, size_hw: tuple[int, int], tmp_path: Path) -> None:
    pictures = walk(5, *size_hw)
    write_video(tmp_path / f"a{suffix}", pictures)
    with open_camera(tmp_path / f"a{suffix}") as camera:
        frames = list(camera)
    assert [frame.pixels.shape for frame in frames] == [(*size_hw, 3)] * 5
    difference = np.abs(frames[2].pixels.astype(int) - pictures[2]).mean()
    assert difference < 8 and camera.copies == 0


@pytest.mark.parametrize("colorspace", [1, 5, 6])  # BT.709, BT.470BG, SMPTE 170M
def test_the_declared_colour_space_counts(colorspace: int, tmp_path: Path) -> None:
    colours = [(30, 40, 200), (200, 60, 30), (40, 200, 60)]
    pictures = [np.full((64, 64, 3), colour, np.uint8) for colour in colours]
    write_video(tmp_path / "a.mp4", pictures, colorspace=colorspace, color_range=1)
    with open_camera(tmp_path / "a.mp4") as camera:
        means = [frame.pixels.reshape(-1, 3).mean(0) for frame in camera]
    np.testing.assert_allclose(means, colours, atol=4)


def test_decoder_threads_change_nothing(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", walk(20))
    one, four = (
        [frame.pixels.copy() for frame in open_camera(tmp_path / "a.mp4", threads=threads)]
        for threads in (1, 4)
    )
    np.testing.assert_array_equal(one, four)


def test_a_pool_lends_all_but_two_of_its_buffers() -> None:
    pool = BufferPool(5)
    leases = [pool.lend((4, 4, 3)) for _ in range(5)]
    assert pool.lent == 3 and pool.fresh == 2
    assert [give_back is None for _, give_back in leases] == [False] * 3 + [True] * 2
    addresses = {pixels.ctypes.data for pixels, _ in leases}
    assert len(addresses) == 5
    for _, give_back in leases[:3]:
        give_back()
    again = {pool.lend((2, 2, 3))[0].ctypes.data for _ in range(3)}
    assert again == {pixels.ctypes.data for pixels, _ in leases[:3]}, "buffers are not reused"


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (8001, 8000), (32769, 1)])
def test_sizes_that_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(CameraError, match="got a thing of "):
        check_size("a thing", *size)


@pytest.mark.parametrize("size", [(1, 1), (1, 10000), (8000, 8000), (32768, 1)])
def test_sizes_that_are_fine(size: tuple[int, int]) -> None:
    check_size("a thing", *size)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".ppm", ".pgm"])
def test_no_header_of_noise_ends_in_a_crash(suffix: str) -> None:
    picture = NOISE[:, :, 0] if suffix == ".pgm" else NOISE
    whole = encoded(suffix, picture)
    assert read_header(whole) is not None and read_header(whole).whole
    random = np.random.default_rng(2)
    for length in range(min(len(whole), 200)):
        read_header(whole[:length])
    for _ in range(300):
        noisy = bytearray(whole)
        for at in random.integers(2, min(len(whole), 120), 4):
            noisy[at] = int(random.integers(256))
        read_header(bytes(noisy))


@pytest.mark.parametrize("path", ["a\0b.mp4", "~no such user/a.mp4"])
def test_a_path_that_no_file_can_have(path: str) -> None:
    with pytest.raises(CameraError) as caught:
        open_camera(path)
    assert str(caught.value) == (
        f"got no file {path!r}; wanted a video, a picture, a folder of pictures or a bag; check "
        "the path"
    )
