"""Where a graph comes from, for backends that make something of it that is worth keeping."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Origin:
    """A graph's place in its bundle.

    Attributes:
        graph: its name, such as "denoiser".
        variant: its precision variant.
        sha256: digest of its file and, where they are in a file of their own, of its weights.
        folders: where something that is made from it may be kept, best first; they need not exist.
    """

    graph: str
    variant: str
    sha256: str
    folders: tuple[Path, ...]

    def __str__(self) -> str:
        return f"{self.graph} ({self.variant})"
