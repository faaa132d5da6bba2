"""The contract of every sink, and files that appear whole or not at all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType

from edgeseg.errors import EdgesegError, OutputError
from edgeseg.frame import Frame
from edgeseg.instances import Instances
from edgeseg.outputs import OutputFile, failed


class Sink(ABC):
    """Where results go. Members: `write`, `close`, `abort`.

    A context manager: leaving it closes, leaving it by an error aborts.
    """

    @abstractmethod
    def write(self, frame: Frame, instances: Instances) -> None:
        """Take one result.

        Args:
            frame: the picture; its pixels may be read during this call only.
            instances: what was seen in it; may be kept.

        Raises:
            OutputError: the result can't be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Finish; harmless when called twice or after `abort`.

        Raises:
            OutputError: the end can't be written; then nothing stays, as after `abort`.
        """

    def abort(self) -> None:
        """Give up; whatever is half-written goes away. Harmless when called twice."""
        self.close()

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


class FileSink(Sink):
    """A sink that writes a hidden part of a file and gives it its name when closed.

    The part is made at once, so that a path that can't be written is known before the work. It is
    removed by `abort`, and also when the sink is forgotten or the program ends.

    Attributes:
        path: where the result will be.
        part: where it grows.

    Raises:
        OutputError: no such folder, no permission, no space, or what is there is no file.
    """

    _errors: tuple[type[Exception], ...] = (OSError,)  # what a failed write raises

    def __init__(self, path: str | Path) -> None:
        self._output = OutputFile(path)
        self.path, self.part = self._output.path, self._output.part

    def write(self, frame: Frame, instances: Instances) -> None:
        """Take one result, see `Sink.write`."""
        if not self._output.open:
            raise OutputError(
                f"got a result for {str(self.path)!r}, which is closed; wanted an open sink; "
                "make a new one"
            )
        try:
            self._write(frame, instances)
        except EdgesegError:
            raise
        except self._errors as error:
            raise failed(self.path, error) from error

    def close(self) -> None:
        """Finish the file and give it its name, see `Sink.close`."""
        if not self._output.open:
            return
        try:
            if self._finish():
                self._output.keep()
        except self._errors as error:
            raise failed(self.path, error) from error
        finally:
            self._output.discard()

    def abort(self) -> None:
        """Remove what was written so far; a file of that name from before stays as it was."""
        if self._output.open:
            self._drop()
            self._output.discard()

    @abstractmethod
    def _write(self, frame: Frame, instances: Instances) -> None:
        """Write one result to `part`."""

    @abstractmethod
    def _finish(self) -> bool:
        """Write the end of `part` and close it; False where there is nothing worth a file."""

    @abstractmethod
    def _drop(self) -> None:
        """Close `part` whatever its state, without an error."""
