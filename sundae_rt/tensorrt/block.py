"""Arrays side by side in one piece of memory, so that one copy moves all of them."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

_ALIGNMENT: Final = 256  # of addresses, which TensorRT asks for


class Block:
    """Where some arrays lie in a block of bytes.

    Args:
        arrays: by name the shape and dtype of each; an array may be empty, and has a place all the same.

    Attributes:
        offsets: where each begins, a multiple of 256.
        size: bytes of all, a multiple of 256.
    """

    def __init__(self, arrays: Mapping[str, tuple[tuple[int, ...], DTypeLike]]) -> None:
        self._arrays = {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in arrays.items()}
        self.offsets: dict[str, int] = {}
        self.size = 0
        for name in arrays:
            self.offsets[name] = self.size
            self.size += -(-max(self.bytes_of(name), 1) // _ALIGNMENT) * _ALIGNMENT

    def bytes_of(self, name: str) -> int:
        """How many bytes an array has."""
        shape, dtype = self._arrays[name]
        return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize

    def pack(self, arrays: Mapping[str, NDArray[Any]], block: NDArray[np.uint8]) -> None:
        """Write arrays of these shapes and dtypes into a block, uint8 [size]."""
        for name, view in self.views(block).items():
            view[...] = arrays[name]

    def views(self, block: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """The arrays of a block, uint8 [size], which share its memory."""
        return {
            name: block[self.offsets[name] : self.offsets[name] + self.bytes_of(name)].view(dtype).reshape(shape)
            for name, (shape, dtype) in self._arrays.items()
        }
