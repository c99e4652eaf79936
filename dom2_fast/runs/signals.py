"""Ctrl-C and SIGTERM, noted instead of obeyed at once: a run ends between two updates."""

from __future__ import annotations

import signal
import threading


class StopSignal:
    """Notes SIGINT and SIGTERM instead of dying; a second SIGINT raises KeyboardInterrupt.

    Used as a context; the handlers that were there before are put back at its end. In another
    thread than the main one, where Python gets no signals, it notes nothing.
    """

    def __init__(self) -> None:
        self.received = False
        self._former: dict = {}

    def _handle(self, number, _frame) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = True

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_error) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)
