"""Checks of values that come from outside: whole and real numbers, pairs of them, choices, arrays, and JSON.

`bool`, strings and NaN are refused everywhere; NumPy's numbers are taken like Python's own. A refusal is an
`InputError` that names the value and the range.
"""

import json
import math
import numbers
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sundae_rt.errors import InputError, shown

FLOAT32_MAX = float(np.finfo(np.float32).max)

Choice = TypeVar("Choice")


def whole(name: str, value: object, low: int, high: int | None = None) -> int:
    """Return `value` as an int if it is a whole number in [low, high] (no upper end if `high` is None)."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        number = int(value)
        if number >= low and (high is None or number <= high):
            return number
    bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
    raise InputError(f"{name} must be a whole number {bounds}, not {shown(value)}")


def real(name: str, value: object, low: float, high: float = FLOAT32_MAX, *, above_low: bool = False) -> float:
    """Return `value` as a float if it is a number in [low, high], or in (low, high] if `above_low`."""
    number = math.nan
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if low <= number <= high and not (above_low and number == low):
            return number
    start = f"above {low:g}" if above_low else f"of at least {low:g}"
    # The largest float32 is named to whom it stops alone.
    end = f" and at most {high:g}" if high < FLOAT32_MAX or high < number < math.inf else ""
    raise InputError(f"{name} must be a finite number {start}{end}, not {shown(value)}")


def real_pair(
    name: str, value: object, low: float, high: float = FLOAT32_MAX, *, above_low: bool = False
) -> tuple[float, float]:
    """Return `value`, one number or a pair of them (start, end), as a pair of floats, each checked as by `real`."""
    if isinstance(value, numbers.Real):
        number = real(name, value, low, high, above_low=above_low)
        return number, number
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray) and len(value) == 2:
        start, end = (real(name, part, low, high, above_low=above_low) for part in value)
        return start, end
    raise InputError(f"{name} must be a number or a pair of numbers (start, end), not {shown(value)}")


def one_of(name: str, value: object, choices: Sequence[Choice]) -> Choice:
    """Return the one of `choices` that `value` equals."""
    for choice in choices:
        if isinstance(value, type(choice)) and value == choice:
            return choice
    raise InputError(f"{name} must be one of {', '.join(map(str, choices))}, not {shown(value)}")


def whole_array(
    name: str,
    value: object,
    shape: Sequence[int | None],
    low: int,
    high: int,
    dtype: type[np.integer[Any]] = np.int32,
) -> NDArray[Any]:
    """Return `value` as `dtype` if it is an array of integers in [low, high] of this shape (None: any size but 0)."""
    array = _shaped(name, value, shape, "iu", "integers")
    for extreme in (array.min(), array.max()):
        if not low <= extreme <= high:
            raise InputError(f"{name} must lie from {low} to {high}, not {extreme}")
    return array.astype(dtype, copy=False)


def real_array(
    name: str, value: object, shape: Sequence[int | None], low: float, high: float = FLOAT32_MAX
) -> NDArray[np.float32]:
    """Return `value` as float32 if it is an array of numbers in [low, high] of this shape (None: any size but 0)."""
    array = _shaped(name, value, shape, "iuf", "numbers").astype(np.float64)  # half floats know no such bounds
    inside = (array >= low) & (array <= high)  # false for NaN
    if not inside.all():
        raise InputError(f"{name} must lie from {low:g} to {high:g}, not {array[~inside][0]}")
    return array.astype(np.float32)


def bool_array(name: str, value: object, shape: Sequence[int | None]) -> NDArray[np.bool_]:
    """Return `value` as bool if it is an array of truth values of this shape (None: any size but 0)."""
    return _shaped(name, value, shape, "b", "truth values")


def _shaped(name: str, value: object, shape: Sequence[int | None], kinds: str, content: str) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except ValueError as error:  # nested lists of unequal lengths
        raise InputError(f"{name} must be an array: {error}") from error
    fits = len(shape) == array.ndim and all(
        wanted in (None, size) for wanted, size in zip(shape, array.shape, strict=True)
    )
    if not fits or array.size == 0 or array.dtype.kind not in kinds:
        wanted_shape = ",".join("N" if size is None else str(size) for size in shape)
        raise InputError(
            f"{name} must be an array of {content} of shape [{wanted_shape}], not {array.dtype} {list(array.shape)}"
        )
    return array


def strict_json(text: str | bytes) -> Any:
    """Parse JSON, and no more than JSON.

    Raises:
        ValueError: not valid JSON; or a key that stands twice in an object, or NaN or Infinity, which `json` would let
            pass.
        RecursionError: nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {shown(key)} is given twice")
        result[key] = value
    return result


def _no_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not a number of JSON")
