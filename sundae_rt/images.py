"""Reading pictures: any common file, PIL image or array becomes upright 8-bit RGB, or RGBA, or is refused by name.

| input                                                   | becomes                                                   |
|---------------------------------------------------------|-----------------------------------------------------------|
| RGB                                                     | as it is                                                  |
| greyscale, 1 bit, palette                               | RGB                                                       |
| any of these with an alpha channel or transparent index | RGBA                                                      |
| EXIF orientation                                        | pixels turned upright, without the tag                    |
| an RGB colour profile (ICC)                             | kept in `info["icc_profile"]`; other metadata is dropped  |
| MPO (JPEG with previews, as phones write it)            | its first frame, which is the photograph                  |
| 16 bits and more, floating point, CMYK, YCbCr, LAB, HSV | refused: converting them would change kept pixels         |
| animations, several pages                               | refused: which frame is meant?                            |
| over `MAX_PIXELS`, damaged, truncated, no image         | refused                                                   |
"""

import hashlib
import io
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sundae_rt.errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
"""The file formats that are read. A short list: Pillow hands others, such as EPS, to programs outside it."""

MAX_PIXELS = 89_478_485
"""The most pixels that a picture may have: from here on Pillow too suspects a decompression bomb."""

MAX_BYTES = 512 * 2**20
"""The most bytes that a picture's file may have: more than `MAX_PIXELS` take uncompressed."""

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
_KINDS = {"I": "a picture of more than 8 bits a channel", "F": "a floating-point picture"}
_DEEP_RAW_MODE = re.compile(r"(?!BGR)[A-Za-z]+;16")  # BGR;16 is BMP's 5-6-5 bits, which 8 bits hold
_REMEDY = "save it as an 8-bit RGB PNG first"
_opening = threading.Lock()  # warnings.catch_warnings changes the whole process


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read a picture from a file as upright RGB or RGBA, wholly loaded; the module's table says what becomes of what.

    Raises:
        InputError: no such file, no readable image, too large, or of a kind that is refused.
    """
    return read_image(path)[0]


def read_image(path: str | os.PathLike[str]) -> tuple[Image.Image, str]:
    """The same, and the SHA-256 of the bytes that were read, as hex; they are read once, so it may be a pipe.

    Raises:
        InputError: as `open_image`.
    """
    with _refusing(str(path)):
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise InputError(f"{path} is larger than {MAX_BYTES // 2**20} MiB, the most that is read: it is no picture")
    with opened(io.BytesIO(content), name=str(path)) as image:
        return as_rgb(image, name=str(path)), hashlib.sha256(content).hexdigest()


def as_rgb(image: Image.Image | np.ndarray, name: str = "image") -> Image.Image:
    """Bring a PIL image, or an array uint8 [H,W], [H,W,3] or [H,W,4], to upright RGB or RGBA.

    `name` is what messages call it.

    Raises:
        InputError: it is neither, or is of a kind that is refused.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, name)
    if not isinstance(image, Image.Image):
        raise InputError(f"{name} must be a PIL image or a NumPy array, not {type(image).__name__}")
    with _refusing(name):
        _check_kind(image, name)
        image.load()
        profile = image.info.get("icc_profile")
        upright = ImageOps.exif_transpose(image).convert("RGBA" if image.has_transparency_data else "RGB")
    # A profile of another colour space (grey, say) would no longer describe the pixels.
    keep_profile = isinstance(profile, bytes) and profile[16:20] == b"RGB "
    upright.info = {"icc_profile": profile} if keep_profile else {}
    return upright


@contextmanager
def opened(
    file: str | os.PathLike[str] | io.BytesIO, formats: tuple[str, ...] = FORMATS, name: str | None = None
) -> Iterator[Image.Image]:
    """Open a picture file, its pixels not yet decoded, and turn whatever Pillow raises in the block into `InputError`.

    `name` is what messages call it, where that is not its path.

    Raises:
        InputError: no such file, none of `formats`, over `MAX_PIXELS`, damaged or truncated.
    """
    name = str(file) if name is None else name
    with _refusing(name):
        with _opening, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file, formats=formats)
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(name)
            yield image


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Turn every way in which reading the picture `name` can fail into one `InputError`."""
    try:
        yield
    except InputError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise _too_large(name) from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name} is no image of a known format ({', '.join(FORMATS)})") from error
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror or error}") from error
    except Exception as error:  # Pillow's decoders raise almost anything on a damaged file
        raise InputError(f"cannot read {name}: the image is damaged ({str(error) or type(error).__name__})") from error


def _too_large(name: str) -> InputError:
    return InputError(f"{name} has more than {MAX_PIXELS} pixels, the most that is read: scale it down first")


def _check_kind(image: Image.Image, name: str) -> None:
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise InputError(f"{name} has several frames or pages: save the one that is meant as a PNG first")
    if image.mode not in _MODES:
        kind = _KINDS.get(image.mode.partition(";")[0], f"a picture in {image.mode}")
        raise InputError(f"{name} is {kind}, which is not read: {_REMEDY}")
    if _has_deep_channels(image):
        raise InputError(f"{name} is {_KINDS['I']}, which is not read: {_REMEDY}")


def _has_deep_channels(image: Image.Image) -> bool:
    """Whether Pillow would round 16-bit channels to its 8-bit modes, which only the undecoded file shows."""
    for codec, _, _, arguments in getattr(image, "tile", ()):
        raw_mode, *rest = arguments if isinstance(arguments, tuple) else (arguments,)
        if isinstance(raw_mode, str) and _DEEP_RAW_MODE.match(raw_mode):
            return True
        if codec == "ppm" and rest and rest[0] > 255:
            return True
    return False


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    known_shape = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not known_shape:
        shape = ",".join(str(side) for side in array.shape)
        raise InputError(f"{name} must be uint8 [H,W], [H,W,3] or [H,W,4], not {array.dtype} [{shape}]")
    image = Image.fromarray(np.ascontiguousarray(array))
    return image.convert("RGB") if array.ndim == 2 else image
