"""The rows of a batch side by side: a thread for each part, for graphs that gain little from several threads."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sundae_rt.parallel import all_at_once

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

    def one(part: int) -> Outputs:
        rows = slice(bounds[part], bounds[part + 1])
        return run({name: array[rows] for name, array in inputs.items()})

    done = all_at_once([partial(one, part) for part in range(parts)])
    return [np.concatenate(pieces) for pieces in zip(*done, strict=True)]
