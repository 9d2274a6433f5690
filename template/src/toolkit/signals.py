"""Ctrl-C and SIGTERM as a wish to leave at the next point where all is whole."""

import os
import signal
import threading
from typing import Any

from toolkit.errors import Interrupted


class LeaveOnSignal:
    """The first signal sets `leaving`; the second one interrupts at once."""

    def __init__(self) -> None:
        self.leaving = False
        self._before: dict[int, Any] = {}

    def watch(self) -> None:
        """Put the handlers in place; a thread that may not do so leaves things as they are."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before.setdefault(number, signal.getsignal(number))
                signal.signal(number, self._handle)

    def restore(self) -> None:
        """Give the signals back to who had them before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _handle(self, *_: object) -> None:
        if self.leaving and "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun sends a signal of its own on Ctrl-C
            raise Interrupted("left at once; the same command goes on from the last saved state")
        self.leaving = True
        print("\nleaving after this step, once the state is saved (once more: at once)", flush=True)
