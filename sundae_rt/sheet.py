"""A contact sheet: all images of a run on one picture, in the order of their indices."""

import math
from pathlib import Path

from PIL import Image

from sundae_rt.errors import InputError
from sundae_rt.files import replacing

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""File suffixes of a sheet, and Pillow's name of the format that each stands for."""

MAX_SIDE = 4096
"""The longest side of a sheet, in pixels: thumbnails shrink until it holds them all."""

_MIN_THUMBNAIL = 8
_GAP = 2
_BACKGROUND = (24, 24, 24)


class ContactSheet:
    """A sheet of `count` images of at most `image_size` (H, W) pixels, filled in any order and saved at the end.

    The suffix of `path` chooses among `FORMATS`. The sheet keeps thumbnails only, so its memory is bounded by
    `MAX_SIDE`, whatever the count.

    Raises:
        InputError: another suffix, or so many images that their thumbnails would be too small to see.
    """

    def __init__(self, path: Path, count: int, image_size: tuple[int, int]) -> None:
        if path.suffix.lower() not in FORMATS:
            raise InputError(f"{path} is no name for a contact sheet: it must end in {', '.join(FORMATS)}")
        self._path = path
        self._columns = math.ceil(math.sqrt(count))
        rows = math.ceil(count / self._columns)
        height, width = image_size
        scale = min(
            1.0,
            (MAX_SIDE / self._columns - _GAP) / width,
            (MAX_SIDE / rows - _GAP) / height,
        )
        self._thumbnail = (int(width * scale), int(height * scale))
        if min(self._thumbnail) < min(_MIN_THUMBNAIL, width, height):
            own = (
                f"{count} images of {width}x{height} pixels do"
                if count > 1
                else f"an image of {width}x{height} pixels does"
            )
            remedy = "make fewer, or leave the sheet out" if count > 1 else "leave the sheet out"
            raise InputError(f"{own} not fit on one contact sheet: {remedy}")
        size = (self._columns * (self._thumbnail[0] + _GAP) - _GAP, rows * (self._thumbnail[1] + _GAP) - _GAP)
        self._sheet = Image.new("RGB", size, _BACKGROUND)

    def add(self, index: int, image: Image.Image) -> None:
        """Put an image in the place of its index, 0 .. count - 1."""
        thumbnail = image.convert("RGB")
        if thumbnail.size != self._thumbnail:
            thumbnail = thumbnail.resize(self._thumbnail, Image.Resampling.LANCZOS)
        row, column = divmod(index, self._columns)
        self._sheet.paste(thumbnail, (column * (self._thumbnail[0] + _GAP), row * (self._thumbnail[1] + _GAP)))

    def save(self) -> None:
        """Write the sheet.

        Raises:
            InputError: the file cannot be written.
        """
        with replacing(self._path) as temporary:
            self._sheet.save(temporary, FORMATS[self._path.suffix.lower()], quality=92)
