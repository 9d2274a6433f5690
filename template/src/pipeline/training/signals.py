"""Ctrl-C and SIGTERM as a wish to leave at the next point where the state is whole."""

import os
import signal
import threading
from types import FrameType
from typing import Any

from toolkit.errors import Interrupted


class LeaveOnSignals:
    """The first signal sets `leave`; the second one interrupts at once. As a context it restores the old handlers."""

    def __init__(self) -> None:
        self.leave = False
        self._before: dict[int, Any] = {}

    def watch(self) -> None:
        """Put the handlers in place; a thread that may not do so leaves things as they are."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.signal(number, self._handle)
                self._before.setdefault(number, before)

    def __enter__(self) -> "LeaveOnSignals":
        self.watch()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.leave and "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun sends a signal of its own on Ctrl-C
            raise Interrupted("left at once; the same command goes on from the last saved state")
        self.leave = True
        print("\nleaving after this step, once the state is saved (once more: at once)", flush=True)
