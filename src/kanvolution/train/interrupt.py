"""Ctrl-C and SIGTERM end a run between two steps, not in the middle of one."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopFlag:
    """Set by the first signal; `name` says by which."""

    def __init__(self) -> None:
        self.name: str | None = None

    def __bool__(self) -> bool:
        return self.name is not None


@dataclass(frozen=True)
class _Handler:
    """A handler of `stop_on_signal`, told from those of others."""

    handle: Callable[[int, FrameType | None], None]

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.handle(number, frame)


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopFlag]:
    """A flag that SIGINT and SIGTERM set within the block. A second signal acts as it did before the block.

    Within another such block both flags are set, so that several runs stop although the last steps of one were done.
    Outside the main thread, where Python takes no signals, the flag is never set.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def handle(number: int, frame: FrameType | None) -> None:
        flag.name = signal.Signals(number).name
        _restore(before)
        if isinstance(outer := before[signal.Signals(number)], _Handler):
            outer(number, frame)

    for number in _SIGNALS:
        signal.signal(number, _Handler(handle))
    try:
        yield flag
    finally:
        if flag.name is None:  # else they are what they were already, and an outer block has seen its signal
            _restore(before)


def _restore(handlers: dict) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
