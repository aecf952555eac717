"""Ctrl-C, where it would get lost, and SIGTERM, which is to end a command as gently."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def held_back() -> Iterator[None]:
    """Let a Ctrl-C that comes during the block take effect at its end.

    Native libraries swallow one that comes while they are imported, or fail with an error of another kind. Where
    Ctrl-C is ignored or handled otherwise than by `KeyboardInterrupt`, it stays so.
    """
    raises_here = threading.current_thread() is threading.main_thread()
    if not raises_here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if came:  # whatever else the block raised
            raise KeyboardInterrupt


def terminate_gently() -> None:
    """From now on SIGTERM (`kill`, `timeout`, `docker stop`) does as Ctrl-C does, so that nothing half written stays.

    Where Ctrl-C is ignored, or either is handled already, SIGTERM stays as it was.
    """
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    if handlers == (signal.default_int_handler, signal.SIG_DFL):
        signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
