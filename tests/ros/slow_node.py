"""The node with a fake network that works for SECONDS on every bright picture, and says so.

slow_node.py SECONDS, and the words of the node. The pictures that warm it up are dark.
"""

from __future__ import annotations

import sys
import time
from typing import Any


def main(seconds: float, words: list[str]) -> int:
    from edgeseg.engines.fake import FakeEngine
    from edgeseg_ros import node

    run = FakeEngine._run

    def work(self: FakeEngine) -> dict[str, Any]:
        if self.input.any():
            print("at work", flush=True)
            time.sleep(seconds)
        return run(self)

    FakeEngine._run = work  # type: ignore[method-assign]
    return node.main(words)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[1:]))
