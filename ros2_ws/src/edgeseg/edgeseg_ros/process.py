"""A ROS process around one node: memory, signals, exit codes."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from edgeseg.errors import EdgesegError


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
    rclpy.init(args=words)
    node = None
    try:
        node = make()
        return spin(node) or 0
    except EdgesegError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()


def _keep_memory() -> None:
    """Let glibc keep the buffers of messages: each would cost hundreds of page faults an image."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
        mallopt(-1, 256 << 20)  # M_TRIM_THRESHOLD
