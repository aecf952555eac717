"""The bundles that ship with the package, and how a name resolves to a bundle."""

import os
from pathlib import Path
from typing import Final

from sundae_rt.errors import BundleError

DEFAULT: Final = "earth"


def resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """The path of a bundle: a path that exists wins, else the name of a bundle that ships.

    Raises:
        BundleError: it is neither; the message lists the names that ship.
    """
    path = Path(name_or_path)
    if path.exists():
        return path
    if str(name_or_path) in shipped():
        return Path(__file__).parent / path
    known = ", ".join(shipped()) or "none"
    raise BundleError(f"no bundle {str(name_or_path)!r}: neither a path that exists nor one that ships ({known})")


def shipped() -> tuple[str, ...]:
    """The names of the bundles that ship, sorted."""
    return tuple(sorted(manifest.parent.name for manifest in Path(__file__).parent.glob("*/manifest.json")))
