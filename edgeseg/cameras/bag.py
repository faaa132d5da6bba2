"""Recordings of ROS 2 (rosbag2: MCAP and SQLite files, or a folder of them), read without ROS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from errno import EINVAL
from itertools import chain, islice, pairwise
from pathlib import Path
from statistics import median
from threading import Event
from time import monotonic_ns
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.typesys import Stores, get_typestore

from edgeseg import messages
from edgeseg.cameras.base import Pace
from edgeseg.cameras.files import BAGS, FilesCamera, unreadable
from edgeseg.cameras.images import decode
from edgeseg.errors import CameraError, EdgesegError, InputError, unknown
from edgeseg.frame import Frame

RAW = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
PATIENCE = 100  # messages that may be unreadable before the first good one
END = [("", 2**63 - 1, b"")]  # behind the last message: never due
TYPES = get_typestore(Stores.LATEST)


@dataclass(frozen=True, slots=True)
class BagHeader:
    """The header of a message in a bag, with the time at which the bag received it.

    Attributes:
        stamp: ``builtin_interfaces/Time`` as it was sent; says when the picture was taken.
        frame_id: name of the optical frame.
        received_ns: the bag's own time stamp, nanoseconds since the epoch; orders its messages.
    """

    stamp: Any
    frame_id: str
    received_ns: int


class BagCamera(FilesCamera):
    """The pictures of one topic of a bag, in the order in which they were received.

    Reads ``sensor_msgs/Image`` (a view of the message's own bytes, nothing is copied) and
    ``CompressedImage`` (JPEG, PNG and the other kinds of `ImageCamera`, in fresh memory).
    ``Frame.header`` is a `BagHeader`. Messages that hold no picture that can be read are skipped
    and counted, as are those that the bag announces but lacks; when the first 100 are such, that is
    an error with the first one's reason. Messages are read one by one, so a long bag takes no more
    memory than a short one.

    Args:
        path: a ``.mcap`` or ``.db3`` file, or the folder with ``metadata.yaml``.
        topic: the image topic; may be left out where the bag has only one.
        live: keep to the pace at which the messages were received, see `FilesCamera`.

    Raises:
        CameraError: missing, empty, cut short or damaged; no image topic; no readable picture.
        InputError: no such topic, one of another type, or several to choose from.
    """

    def __init__(self, path: str | Path, *, topic: str | None = None, live: bool = False) -> None:
        super().__init__(path, live=live)
        self._reader = _open(self.path)
        try:
            self._connections = _choose(_connections(self._reader), topic, self.path)
            self.topic: str = self._connections[0].topic
            self.frame_count = sum(one.msgcount for one in self._connections)
            self._recorded = Recorded(self._interrupted)
            self._start(self._rate())
            self._pace = self._recorded
        except BaseException:
            self._release()
            raise

    @classmethod
    def open(cls, address: str, **settings: Any) -> BagCamera:
        """The bag at ``address``, whatever else it looks like."""
        return cls(address, **settings)

    def _rate(self) -> float:
        """Pictures per second, from the usual distance of the first ones."""
        times = [received_ns for _, received_ns, _ in islice(self._messages(), 10)]
        periods_ns = [later - earlier for earlier, later in pairwise(times)]
        usual_ns = median(periods_ns or [0])
        return round(1e9 / usual_ns, 3) if 1e3 < usual_ns < 1e12 else 30.0

    def _messages(self) -> Iterator[tuple[str, int, bytes]]:
        """Type, receive time and bytes of each message of the topic."""
        try:
            for connection, received_ns, raw in self._reader.messages(self._connections):
                yield connection.msgtype, received_ns, raw
        except Exception as error:  # rosbags raises whatever the damage makes of its code
            raise _damaged(self.path, error) from error

    def _decode(self) -> Iterator[Frame | None]:
        reason, good = "", False
        for number, (message, (_, next_ns, _)) in enumerate(pairwise(chain(self._messages(), END))):
            self._recorded.tell(number, message[1], next_ns)
            try:
                frame = self._frame(*message)
            except Exception as error:  # ours, or whatever damage makes of the code of rosbags
                reason = reason or _reason(error)
                if not good and number + 1 >= PATIENCE:
                    break
                yield None
            else:
                good = True
                yield frame
        if not good:
            raise self._nothing(reason)
        self.dropped["corrupt"] += max(0, (self.frame_count or 0) - self._sequence)

    def _frame(self, kind: str, received_ns: int, raw: bytes) -> Frame:
        message: Any = TYPES.deserialize_cdr(memoryview(raw), kind)  # a view: bytes would be copied
        if kind == RAW:
            frame = messages.frame(message)
        else:
            frame = decode(message.data.tobytes(), repr(self.topic))
            frame.frame_id = message.header.frame_id
        frame.header = BagHeader(message.header.stamp, message.header.frame_id, received_ns)
        return frame

    def _nothing(self, reason: str) -> CameraError:
        """The error for a topic without a picture that can be read."""
        if reason:
            return CameraError(
                f"got no readable picture on {self.topic!r} of {str(self.path)!r}; the first "
                f"message says: {reason}"
            )
        return CameraError(
            f"got no message on {self.topic!r} of {str(self.path)!r}, which announces "
            f"{self.frame_count}; wanted at least one; choose another topic, or record it again"
        )

    def _release(self) -> None:
        self._reader.close()


class Recorded(Pace):
    """The clock of a recording: a picture is due as long after the first as it was received then.

    Times that go back count as no time at all.

    Args:
        stop: ends a wait early.
    """

    def __init__(self, stop: Event) -> None:
        super().__init__(1.0, stop)
        self._first_ns: int | None = None
        self._due = {0: 0}  # number -> ns after the first, of the two last told

    def tell(self, number: int, received_ns: int, next_ns: int) -> None:
        """Say when picture ``number`` was received, and when the next."""
        self._first_ns = received_ns if self._first_ns is None else self._first_ns
        due_ns = max(self._due.get(number, 0), received_ns - self._first_ns)
        self._due = {number: due_ns, number + 1: max(due_ns, next_ns - self._first_ns)}

    def due_ns(self, number: int) -> int:
        """When picture ``number``, one of the two last told, is due, CLOCK_MONOTONIC ns."""
        if self._start_ns is None:
            self._start_ns = monotonic_ns()
        return self._start_ns + self._due[number]

    def newest(self) -> int:
        """Number of the later of the two, once it is due; till then that of the earlier."""
        earlier, later = self._due
        return later if self.due_ns(later) <= monotonic_ns() else earlier


def _open(path: Path) -> Reader:
    """Open a bag."""
    try:
        _look(path)
        reader = Reader(path)
        reader.open()
        return reader
    except CameraError:
        raise
    except Exception as error:  # rosbags raises whatever the damage makes of its code
        cause = error if isinstance(error, OSError) else error.__cause__
        if isinstance(cause, OSError) and cause.errno != EINVAL:  # that is a seek to nowhere
            raise unreadable(path, cause) from error
        raise _damaged(path, error) from error


def _look(path: Path) -> None:
    """Refuse what is no bag by its name and size.

    Raises:
        CameraError: with what to do instead.
        OSError: it can't be read.
    """
    if path.is_dir():
        if not (path / "metadata.yaml").is_file():
            raise CameraError(
                f"got a folder {str(path)!r} without metadata.yaml; wanted a whole bag; name the "
                "file in it, or run 'ros2 bag reindex'"
            )
        return
    if path.suffix.lower() not in BAGS - {".bag"}:
        raise CameraError(
            f"got {str(path)!r}; wanted a rosbag2 file (.mcap, .db3) or its folder; convert a bag "
            "of ROS 1 with 'rosbags-convert'"
        )
    with path.open("rb") as file:
        if not file.read(1):
            raise CameraError(
                f"got an empty file {str(path)!r}; wanted a bag; copy or record it again"
            )


def _connections(reader: Reader) -> list[Connection]:
    """What the bag's files hold.

    Not what ``metadata.yaml`` says of them: by that rosbags finds no message at all where the two
    tell other QoS of a topic, as in bags that were converted.
    """
    files = getattr(reader.storage, "storages", [reader.storage])
    return [one for file in files for one in file.connections]


def _choose(connections: list[Connection], topic: str | None, path: Path) -> list[Connection]:
    """The connections of the image topic that is meant."""
    others = {one.topic: one.msgtype for one in connections}
    images: dict[str, list[Connection]] = {}
    for one in connections:
        if one.msgtype in (RAW, COMPRESSED):
            images.setdefault(one.topic, []).append(one)
    if not images:
        some = [*others][:8] + ["..."] * (len(others) > 8)
        raise CameraError(
            f"got a bag {str(path)!r} without an image topic (it has {', '.join(some) or 'none'}); "
            f"wanted {RAW} or {COMPRESSED}; choose another"
        )
    if topic is None:
        filled = [name for name in images if sum(one.msgcount for one in images[name])]
        if len(filled or images) > 1:
            raise InputError(
                f"got {len(images)} image topics in {str(path)!r} ({_table(images)}); wanted one; "
                "name it with --topic NAME (topic= in Python)"
            )
        return images[(filled or [*images])[0]]
    for name in (topic, f"/{topic}"):
        if name in images:
            return images[name]
        if name in others:
            raise InputError(
                f"got topic {name!r} of type {others[name]}; wanted {RAW} or {COMPRESSED}; "
                f"choose among {_table(images)}"
            )
    raise unknown("topic", topic, images)


def _table(images: dict[str, list[Connection]]) -> str:
    """Topics with their types and counts, for a person."""
    return ", ".join(
        f"{name}: {sum(one.msgcount for one in rows)} {rows[0].msgtype}"
        for name, rows in images.items()
    )


def _damaged(path: Path, error: Exception) -> CameraError:
    """The error for a bag that rosbags can't read."""
    advice = "copy it again, or mend it with 'mcap recover' or 'ros2 bag reindex'"
    if "unable to open database" in str(error) and {*"?#%"} & {*str(path)}:
        advice = "rename it: SQLite bags can't be opened by a path with ?, # or %"
    return CameraError(
        f"got a bag {str(path)!r} that can't be read ({_words(error)}); wanted a whole one; "
        f"{advice}"
    )


def _reason(error: Exception) -> str:
    """Why a message is no picture, in three parts."""
    if isinstance(error, EdgesegError):
        return str(error)
    return f"got bytes of another kind ({_words(error)}); wanted an image; record it again"


def _words(error: Exception) -> str:
    """What an error of rosbags says, on one line of a bearable length."""
    text = " ".join(str(error).split())[:300].rstrip(".")
    return text if isinstance(error, ReaderError) else f"{type(error).__name__}: {text}"
