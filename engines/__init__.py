"""The bundles that ship with the package, and how a name resolves to a bundle."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sundae_rt.errors import BundleError, shown

DEFAULT: Final = "earth"


def resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """The path of a bundle: a path that exists wins, else the name of a bundle that ships.

    Raises:
        BundleError: it is neither; the message lists the names that ship.
    """
    path = Path(name_or_path)
    if os.path.exists(path):  # unlike Path.exists, it takes no offence at a name that is too long, or a closed folder
        return path
    bundles = shipped()
    if str(name_or_path) in bundles:
        return bundles[str(name_or_path)]
    known = ", ".join(bundles) or "none"
    raise BundleError(f"no bundle {shown(str(name_or_path))}: neither a path that exists nor one that ships ({known})")


def shipped() -> Mapping[str, Path]:
    """The bundles that ship: name -> folder, sorted by name."""
    return {manifest.parent.name: manifest.parent for manifest in sorted(Path(__file__).parent.glob("*/manifest.json"))}
