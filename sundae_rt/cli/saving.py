"""Writing images with the settings that made them."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sundae_rt import __version__

if TYPE_CHECKING:
    from PIL import Image

    from sundae_rt.provenance import Provenance
    from sundae_rt.runtime import Runtime, Sample
    from sundae_rt.schedule import Schedule


def made_by(
    command: Literal["generate", "inpaint"],
    runtime: "Runtime",
    schedule: "Schedule",
    sample: "Sample",
    *,
    index: int,
    image_sha256: str | None = None,
    mask_sha256: str | None = None,
) -> "Provenance":
    """How a sample was made; `index` is its place in the whole run."""
    from sundae_rt.provenance import Provenance

    return Provenance(
        command=command,
        version=__version__,
        bundle=runtime.manifest.name,
        fingerprint=runtime.fingerprint,
        variant=runtime.variant,
        backend=runtime.backend,
        index=index,
        seed=sample.seed,
        schedule=schedule,
        label=sample.label,
        image_sha256=image_sha256,
        mask_sha256=mask_sha256,
    )


def save(path: Path, image: "Image.Image", made: "Provenance") -> None:
    """Write an image as PNG, whole or not at all."""
    from sundae_rt.files import replacing

    with replacing(path) as temporary:
        image.save(temporary, "PNG", pnginfo=made.png_info())
