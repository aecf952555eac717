"""The rows of a batch side by side: a thread for each part, for graphs that gain little from several threads."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sundae_rt.errors import BackendError

Outputs = list[NDArray[Any]]
"""A graph's outputs in its own order; the first axis of each is the batch."""


def run_side_by_side(
    run: Callable[[Mapping[str, NDArray[Any]]], Outputs], inputs: Mapping[str, NDArray[Any]], parts: int
) -> Outputs:
    """Run a batch in `parts` parts of equal size, or nearly, all at once, and put their outputs together.

    Args:
        run: runs one part; called from `parts` threads, of which the caller's is one.
        inputs: named arrays with as many rows each, not fewer than `parts`.

    Raises:
        BackendError: no thread can be started.
        Exception: what `run` raised for the first part that failed, once all have ended.
    """
    count = len(next(iter(inputs.values())))
    bounds = [count * part // parts for part in range(parts + 1)]
    results: list[Outputs | BaseException] = [[]] * parts

    def work(part: int) -> None:
        rows = slice(bounds[part], bounds[part + 1])
        try:
            results[part] = run({name: array[rows] for name, array in inputs.items()})
        except BaseException as error:  # for the caller, whatever it is
            results[part] = error

    # Threads that live for one run cost a thousandth of it, and leave nothing to be closed.
    others = [threading.Thread(target=work, args=(part,), daemon=True) for part in range(1, parts)]
    started = []
    try:
        for thread in others:
            thread.start()
            started.append(thread)
        work(0)
    except RuntimeError as error:
        raise BackendError(f"cannot start a thread: {error}") from error
    finally:
        for thread in started:
            thread.join()
    done = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        done.append(result)
    return [np.concatenate(pieces) for pieces in zip(*done, strict=True)]
