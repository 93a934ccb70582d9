"""Signals: turns SIGINT, SIGTERM and SIGHUP into exceptions at moments when nothing is lost."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class InterruptedRunError(KeyboardInterrupt):
    """A signal ended a run. `signal` is its number."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number


class Signals:
    """Inside the block a signal raises InterruptedRunError: at once, or within `deferred` when `check` is called.

    A second signal always raises at once. Handlers are installed in the main thread only, in place of Python's and the
    system's own, and put back at the end: a signal that the program ignores or handles itself stays as it is.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._deferred = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self, yes: bool = True) -> Iterator[None]:
        """Inside the block a first signal waits for `check`; with `yes=False`, inside such a block, it does not."""
        outer, self._deferred = self._deferred, yes
        try:
            if not yes:
                self.check()
            yield
        finally:
            self._deferred = outer

    def check(self) -> None:
        """Raise InterruptedRunError if a signal has come."""
        if self.received is not None:
            raise InterruptedRunError(f"{signal.Signals(self.received).name} came", self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self.received = self.received is None, number
        if not (first and self._deferred):
            self.check()
