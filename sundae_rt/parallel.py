"""Several things at once, a thread for each."""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from sundae_rt.errors import BackendError

Result = TypeVar("Result")


def all_at_once(works: Sequence[Callable[[], Result]]) -> list[Result]:
    """Do all of it, the first in the caller's thread; what each returns, in their order.

    Raises:
        BackendError: no thread can be started.
        Exception: what the first that failed raised, once all have ended.
    """
    results: dict[int, Result] = {}
    errors: dict[int, BaseException] = {}

    def work(at: int) -> None:
        try:
            results[at] = works[at]()
        except BaseException as error:  # for the caller, whatever it is
            errors[at] = error

    # Threads that live for one run cost a thousandth of it, and leave nothing to be closed.
    others = [threading.Thread(target=work, args=(at,), daemon=True) for at in range(1, len(works))]
    try:
        for thread in others:
            thread.start()
        work(0)
    except RuntimeError as error:
        raise BackendError(f"cannot start a thread: {error}") from error
    finally:
        _wait_for(others)
    if errors:
        raise errors[min(errors)]
    return [results[at] for at in range(len(works))]


def _wait_for(threads: Sequence[threading.Thread]) -> None:
    """Wait for those that run; a Ctrl-C meanwhile takes effect at the end, for native code must not be left alone."""
    interrupt: BaseException | None = None
    for thread in threads:
        while thread.is_alive():
            try:
                thread.join()
            except BaseException as error:
                interrupt = error
    if interrupt is not None:
        raise interrupt
