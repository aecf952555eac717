"""Several steps in a row on the device, where nothing that the model puts out decides what is written.

Then all draws of some steps, and where each of them writes, are known before the first: the device gets them at once
and feeds the codes back to itself, and the host reads the proposals of all those steps afterwards, by the same rules as
step by step. So an image comes out the same to the bit, after as many steps; only the device may go on for nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sundae_rt.families import Family, Step
from sundae_rt.schedule import Schedule

MOST: Final = 16
"""Steps at once, at most: whoever comes anew waits for them."""

UNSURE: Final = 4
"""Steps at once where an image may be finished after any of them: the rest of them would be for nothing."""


def steps_at_once(family: Family, progress: Iterable[tuple[Schedule, int]]) -> int:
    """How many steps a batch takes before the host looks at it again: 1 where the next step depends on the model.

    Never more than the shortest schedule has left, so that its slot is free at once; that of an image that stops by
    itself may be late by the steps that were run for nothing.

    Args:
        family: whose rules hold.
        progress: of each image its schedule, and how many of its steps it has taken.
    """
    left = sure = MOST
    for schedule, taken in progress:
        fewest = family.foreseeable_steps(schedule)
        if fewest is None:
            return 1
        left = min(left, schedule.steps - taken)
        sure = min(sure, fewest - taken)
    return min(left, max(sure, UNSURE))


def updates(family: Family, first: Step, draws: Sequence[NDArray[np.float32]]) -> NDArray[np.bool_]:
    """Where each of several steps of one image writes: bool [K,T].

    Args:
        family: whose rules hold, and say for the image's schedule that this can be foreseen.
        first: the first of the steps.
        draws: float32 [T] of each step, that of `first` too.
    """
    codes, found = first.codes, []
    for ahead, draw in enumerate(draws):
        step = replace(first, index=first.index + ahead, codes=codes, draw=draw)
        found.append(family.written(step, None))
        codes = np.where(found[-1], 0, codes)  # some code, it does not matter which: that is what can be foreseen
    return np.stack(found)
