"""Writing images with the settings that made them."""

import os
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sundae_rt import __version__
from sundae_rt.cli.progress import Progress

if TYPE_CHECKING:
    from PIL import Image

    from sundae_rt.provenance import Provenance
    from sundae_rt.runtime import Runtime, Sample
    from sundae_rt.schedule import Schedule
    from sundae_rt.sheet import ContactSheet


def made_by(
    command: Literal["generate", "inpaint"],
    runtime: "Runtime",
    schedule: "Schedule",
    sample: "Sample",
    *,
    index: int | None = None,
    image_sha256: str | None = None,
    mask_sha256: str | None = None,
    mask: str | None = None,
) -> "Provenance":
    """How a sample was made; `index` is its place in its run, where that is not the sample's own."""
    from sundae_rt.provenance import Provenance

    return Provenance(
        command=command,
        version=__version__,
        bundle=runtime.manifest.name,
        fingerprint=runtime.fingerprint,
        variant=runtime.variant,
        backend=runtime.backend,
        index=sample.index if index is None else index,
        seed=sample.seed,
        schedule=schedule,
        label=sample.label,
        image_sha256=image_sha256,
        mask_sha256=mask_sha256,
        mask=mask,
        family=runtime.manifest.family,
    )


def save(path: Path, image: "Image.Image", made: "Provenance") -> None:
    """Write an image as PNG, whole or not at all."""
    from sundae_rt.files import replacing

    with replacing(path) as temporary:
        image.save(temporary, "PNG", pnginfo=made.png_info())


def check_places(
    path_of: Callable[[int], Path], count: int, grid: Path | None = None, inputs: Sequence[Path] = ()
) -> None:
    """Refuse, before any work is done, to write where nothing can be written, or over an input or one's own pictures.

    Args:
        path_of: the path of the picture of an index, 0 .. `count` - 1; what tells several apart is the number at the
            end of the name.
        count: how many.
        grid: of the contact sheet.
        inputs: files that are read.

    Raises:
        InputError: it names the path, and what to do.
    """
    from sundae_rt.errors import InputError
    from sundae_rt.files import check_folder_of

    def is_picture(path: Path) -> bool:
        numbers = [re.search(r"[0-9]{1,19}$", one.stem) for one in (path, Path(_place(path)))]
        indices = {0, *(int(number[0]) for number in numbers if number)}
        return any(_place(path_of(index)) == _place(path) for index in indices if index < count)

    for path in [path_of(0)] + ([] if grid is None else [grid]):
        if path.is_dir():
            raise InputError(f"{path} is a folder: name a file in it")
        check_folder_of(path)
    if grid is not None and is_picture(grid):
        raise InputError(f"{grid} would be both a picture and the contact sheet of all: name another file with --grid")
    for path in inputs:
        if is_picture(path):
            raise InputError(f"{path} is read, and would be written over: name another file with -o")
        if grid is not None and _place(grid) == _place(path):
            raise InputError(f"{path} is read, and would be written over: name another file with --grid")


def _place(path: Path) -> str:
    return os.path.normcase(os.path.realpath(path))


def save_each(
    samples: Generator["Sample", None, None],
    path_of: Callable[[int], Path],
    made: Callable[["Sample"], "Provenance"],
    progress: Progress,
    sheet: "ContactSheet | None",
) -> None:
    """Write each image as it finishes, under the path of its index, and a contact sheet of all at the end."""
    with closing(samples), progress:
        for sample in samples:
            save(path_of(sample.index), sample.image, made(sample))
            if sheet is not None:
                sheet.add(sample.index, sample.image)
            progress.advance()
    if sheet is not None:
        sheet.save()
