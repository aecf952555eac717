"""Writing images with the settings that made them."""

from collections.abc import Callable, Generator
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
