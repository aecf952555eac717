"""Where the weights of a graph lie that are not in its own file, and how much they are."""

from pathlib import Path
from typing import Final

SMALL: Final = 64 * 2**20
"""Graphs up to this many bytes may lie in memory twice: for all threads at once, and for each by itself."""


def size_of(model: bytes, folder: Path | None) -> int:
    """Bytes of a graph's file together with the files in `folder` that it names."""
    beside = () if folder is None else folder.iterdir()
    return len(model) + sum(file.stat().st_size for file in beside if file.name.encode() in model)


def graph_file(model: bytes, folder: Path) -> Path:
    """The file in `folder` that holds `model` itself, for a library which looks for weights beside the graph's file.

    Raises:
        RuntimeError: there is none.
    """
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.stat().st_size == len(model) and file.read_bytes() == model:
            return file
    raise RuntimeError(f"its file is not in {folder}, where its weights are")
