"""The bundles that ship with the package, and how a name resolves to a bundle."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sundae_rt.errors import BundleError, InputError, shown

DEFAULT: Final = "earth"


def resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """The path of a bundle. The name of one that ships wins over a path: `./earth` is the folder here, `earth` is not.

    A `Path` object is never a name, since it does not keep the `./`.

    Raises:
        BundleError: it is neither; the message lists the names that ship.
        InputError: it is empty, or no path at all.
    """
    if not isinstance(name_or_path, str | os.PathLike) or name_or_path == "":
        raise InputError(f"a bundle is a name or a path, not {shown(name_or_path)}")
    bundles = shipped()
    if isinstance(name_or_path, str) and name_or_path in bundles:
        return bundles[name_or_path]
    path = Path(name_or_path)
    if os.path.exists(path):  # unlike Path.exists, it takes no offence at a name that is too long, or a closed folder
        return path
    known = ", ".join(bundles) or "none"
    raise BundleError(f"no bundle {shown(str(name_or_path))}: neither one that ships ({known}) nor a path that exists")


def shipped() -> Mapping[str, Path]:
    """The bundles that ship: name -> folder, sorted by name."""
    return {manifest.parent.name: manifest.parent for manifest in sorted(Path(__file__).parent.glob("*/manifest.json"))}
