"""What a backend loads: a graph's bytes, and what belongs to them."""

import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sundae_rt.backends.origin import Origin

SMALL: Final = 64 * 2**20
"""Graphs up to this many bytes may lie in memory twice: for all threads at once, and for each by itself."""
SMALL_PICTURE: Final = 256 * 256
"""Pixels up to which that holds for graphs of pictures: what they hold besides weights grows with the pixels."""
LIGHT_PICTURE: Final = 128 * 128
"""Pixels up to which it may also stay theirs between two runs."""

# In ONNX's protobuf: the key of what says where the weights of a tensor lie, and the length of the value behind it.
_LOCATION: Final = re.compile(rb"\x0a\x08location\x12([\x80-\xff]{0,4}[\x00-\x7f])", re.DOTALL)


@dataclass(frozen=True, slots=True)
class GraphSource:
    """A graph to load.

    Attributes:
        model: the bytes of its file.
        name: for messages.
        folder: holds that file and the file of the weights that are not in `model`, where there is one, while the graph
            is being loaded; None where all weights are in `model`.
        derived: one of the backend's `derives`, where the graph is to run as that variant of its own.
        origin: for a backend that keeps what it makes of a graph.
        pixels: of each picture that the graph makes or takes; 0 where it knows codes alone.
    """

    model: bytes
    name: str
    folder: Path | None = None
    derived: str | None = None
    origin: Origin | None = None
    pixels: int = 0

    @property
    def is_small(self) -> bool:
        """Whether the graph may lie in memory twice."""
        return self.size <= SMALL and self.pixels <= SMALL_PICTURE

    @property
    def is_light(self) -> bool:
        """Whether the graph may keep what it takes for a run."""
        return self.size <= SMALL and self.pixels <= LIGHT_PICTURE

    @property
    def size(self) -> int:
        """Bytes of the graph's file together with the files in `folder` that it names.

        What lies in 16 bits there and is computed in fp32 takes twice as much in memory.
        """
        beside = [] if self.folder is None else [self.folder / name for name in weight_files(self.model)]
        return len(self.model) + sum(file.stat().st_size for file in beside if file.is_file())

    def file(self) -> Path | None:
        """The file in `folder` that holds `model` itself, for a library which looks for weights beside it.

        Raises:
            RuntimeError: there is a folder, and it holds no such file.
        """
        if self.folder is None:
            return None
        for file in sorted(self.folder.iterdir()):
            if file.is_file() and file.stat().st_size == len(self.model) and file.read_bytes() == self.model:
                return file
        raise RuntimeError(f"its file is not in {self.folder}, where its weights are")


def weight_files(model: bytes) -> set[str]:
    """The names of the files in which a graph says that weights of it lie, as paths from its own folder."""
    names = set()
    for found in _LOCATION.finditer(model):
        length = sum((byte & 0x7F) << 7 * at for at, byte in enumerate(found[1]))
        names.add(posixpath.normpath(model[found.end() : found.end() + length].decode(errors="replace")))
    return names
