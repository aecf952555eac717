"""What a folder of images says of itself: a small file beside the images, carried on into checkpoint and manifest.

``about.toml`` is written by whoever has the data, and holds any of :data:`KEYS`, a line of text each::

    data = "Flowers of our garden, 2019 to 2024"
    data_licence = "CC BY-SA 4.0"

Of a folder without one nothing is known, and nothing claimed, but its name.
"""

from __future__ import annotations

import json
import os
import tomllib
import unicodedata
from pathlib import Path
from typing import Any

from sundae_rt.errors import InputError, one_line, shown
from sundae_rt.files import replacing

FILE = "about.toml"
KEYS = ("data", "data_licence", "licence", "recipe")
"""What the data are; their licence; the licence of weights trained on them; where it stands how the data were made."""
_BROKEN = {"Cc", "Cs", "Zl", "Zp"}  # what is no character of one line: controls, halves of a pair, ends of lines


def read(folder: Path) -> dict[str, str]:
    """What the folder's :data:`FILE` says; where it does not say ``data``, that is the folder's name.

    Raises:
        InputError: the file cannot be read, is no toml, or holds anything but a line of text for some of :data:`KEYS`.
    """
    path = folder / FILE
    try:
        said = checked(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except FileNotFoundError:
        said = {}
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no toml file: {one_line(error)}") from error
    # JSON takes no bytes that are not text, which a name may have.
    name = os.fsencode(os.path.basename(os.path.abspath(folder))).decode(errors="replace")
    return {"data": name} | said


def checked(values: Any, where: str) -> dict[str, str]:
    """Such values as they were read from ``where``.

    Raises:
        InputError: no table, a key that is none of :data:`KEYS`, or what is not one line of text.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where} must be a table, not {shown(values)}")
    for key, value in values.items():
        if key not in KEYS:
            raise InputError(f"{where}: unknown key {shown(key)}; known are {', '.join(KEYS)}")
        if not isinstance(value, str) or not value.strip() or _BROKEN & set(map(unicodedata.category, value)):
            raise InputError(f"{where}: {key} must be one line of text, not {shown(value)}")
    return values


def write(folder: Path, values: dict[str, str]) -> None:
    """Writes the file of a folder, whole or not at all.

    Raises:
        InputError: values that :func:`read` would refuse, or a file that cannot be written.
    """
    # A line of text has the same escapes in toml as in JSON.
    lines = [f"{key} = {json.dumps(text, ensure_ascii=False)}\n" for key, text in checked(values, FILE).items()]
    with replacing(folder / FILE) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
