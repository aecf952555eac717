"""Optimisation profiles: the ranges of batch sizes that an engine is made for."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sundae_rt.errors import InputError, shown

_LIMIT = 65535  # rows that an exported graph takes
_TEXT = re.compile(r"\d{1,5}(:\d{1,5}){0,2}")


@dataclass(frozen=True, slots=True)
class Profile:
    """Batches of `smallest` to `largest` rows, tuned for `likely`. As text "1:64", "1:16:64", or "1" for just one size.

    Raises:
        InputError: sizes out of order or range.
    """

    smallest: int
    likely: int
    largest: int

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.likely <= self.largest <= _LIMIT:
            raise InputError(f"batch must rise from 1 or more to at most {_LIMIT}, not {self}")

    @classmethod
    def parse(cls, text: str) -> "Profile":
        """Read `N`, `A:B` (tuned for B) or `A:LIKELY:B`.

        Raises:
            InputError: it is none of these.
        """
        if not _TEXT.fullmatch(text):
            raise InputError(f"batch must be N, A:B or A:LIKELY:B, not {shown(text)}")
        sizes = [int(size) for size in text.split(":")]
        return cls(sizes[0], sizes[len(sizes) // 2], sizes[-1])

    def __str__(self) -> str:
        if self.smallest == self.largest:
            return str(self.smallest)
        if self.likely == self.largest:
            return f"{self.smallest}:{self.largest}"
        return f"{self.smallest}:{self.likely}:{self.largest}"


DEFAULT: Final = (Profile(1, 1, 1), Profile(1, 64, 64))
"""One image at a time, and up to 64."""


def parse_all(texts: Iterable[str]) -> tuple[Profile, ...]:
    """Profiles from their texts, each once, the narrowest first; `DEFAULT` where there are none.

    Raises:
        InputError: a text that is no profile.
    """
    profiles = {Profile.parse(text) for text in texts}
    return tuple(sorted(profiles, key=lambda one: (one.largest, -one.smallest, one.likely))) or DEFAULT


def choose(profiles: Sequence[Profile], rows: int) -> tuple[int, int] | None:
    """The index of the profile that runs a batch of `rows` best, and how many rows it must be padded to.

    The fewest rows count first, and among equals the narrowest profile. None: all profiles end below.
    """
    fitting = [
        (max(rows, one.smallest), one.largest - one.smallest, index)
        for index, one in enumerate(profiles)
        if rows <= one.largest
    ]
    if not fitting:
        return None
    padded, _, index = min(fitting)
    return index, padded
