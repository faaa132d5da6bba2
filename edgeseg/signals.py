"""An end from outside, by Ctrl-C or SIGTERM, is an orderly one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def orderly_end() -> Iterator[None]:
    """While inside, SIGTERM raises what Ctrl-C does, so that files are finished or removed.

    Does nothing outside the main thread, where Python takes no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_code(interruption: KeyboardInterrupt) -> int:
    """What shells expect after an interruption: 130 for Ctrl-C, 143 for SIGTERM.

    >>> exit_code(KeyboardInterrupt())
    130
    """
    number: int = interruption.args[0] if interruption.args else signal.SIGINT
    return 128 + number


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)
