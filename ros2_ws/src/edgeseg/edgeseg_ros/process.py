"""A ROS process around one node: memory, signals, exit codes."""

from __future__ import annotations

import ctypes
import re
import signal
import sys
from collections.abc import Callable, Sequence

import cv2
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from edgeseg.errors import EdgesegError, InputError


def run(
    make: Callable[[], Node], spin: Callable[[Node], int | None], words: Sequence[str] | None = None
) -> int:
    """Make a node, spin it until it is shut down by Ctrl-C, SIGTERM or launch, and free it.

    Args:
        make: makes the node.
        spin: runs it; may return an exit code.
        words: of the command line; those of the process when left out.

    Returns:
        The exit code: 0, what ``spin`` returned, or 2 for a mistake, which is said in one line.
    """
    _keep_memory()
    cv2.setNumThreads(1)  # a second one saves no time at these sizes, and costs 0.6 ms an image
    node = None
    try:
        _init(words)
        node = make()
        return spin(node) or 0
    except EdgesegError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except RuntimeError:
        if rclpy.ok():
            raise
        return 0  # rcl's error where a signal ends the context in the midst of a wait
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # one is enough; a second would cut this short
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()


def _init(words: Sequence[str] | None) -> None:
    """Start rclpy.

    Raises:
        InputError: words or parameter files that rcl can't read.
    """
    try:
        rclpy.init(args=words)
    except RuntimeError as error:
        reason = re.sub(r", at \S+:\d+", "", " ".join(str(error).split()))
        raise InputError(
            f"got arguments that ROS can't read ({reason}); wanted --ros-args as ROS 2 takes them, "
            "and parameter files as YAML; correct them"
        ) from None


def _keep_memory() -> None:
    """Let glibc keep the buffers of messages: each would cost hundreds of page faults an image."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
        mallopt(-1, 256 << 20)  # M_TRIM_THRESHOLD
