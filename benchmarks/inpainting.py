"""How well what a bundle paints into a picture fits what was there, for masks of several kinds.

``python -m benchmarks.inpainting --bundle earth --data runs/data/heldout`` repaints as many real pictures under each
kind of mask, with the same masks and seeds each time, and says of what was repainted:

- `colour`: how far its mean colour is from that of what was there, of 255, in the mean over pictures and channels;
- `contrast`: the standard deviation of its luminance, the median picture's as a share of the median original's;
- `distance`: the Fréchet distance of the repainted pictures, whole, to the originals (EfficientNet-Lite0, see
  `sundae_rt.training.frechet`; it compares at equal counts only, and is the smaller, the less is repainted).

There is more than one right picture: no figure can be perfect. It also writes a sheet: a picture of each label, and
under each mask what is kept of it and what it became. Needs the extra `train`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray

import sundae_rt
from benchmarks.looks import contrasts
from sundae_rt.errors import SundaeError
from sundae_rt.training import sheets
from sundae_rt.training.data import ImageFolder, image_side
from sundae_rt.training.features import efficientnet_lite0
from sundae_rt.training.frechet import batched, features_of, frechet_distance

RESULTS = Path(__file__).parent / "results" / "inpainting.json"
SHEET = Path(__file__).parents[1] / "docs" / "inpainting.jpg"
GREY = np.uint8(128)
"""What stands on the sheet where a mask hides a picture."""
CALLERS = 16
"""Pictures under way at once: enough for full batches."""

Mask = NDArray[np.bool_]


def _half(runtime: sundae_rt.Runtime, picture: NDArray[np.uint8], seed: int) -> Mask:
    """The lower, left, upper or right half, in turn."""
    half = np.zeros(picture.shape[:2], np.bool_)
    half[len(half) // 2 :] = True
    return np.rot90(half, -(seed % 4))


MASKS: dict[str, Callable[[sundae_rt.Runtime, NDArray[np.uint8], int], Mask]] = {
    "block": lambda runtime, picture, seed: runtime.draw_mask(picture, "block", share=0.25, seed=seed).pixels,
    "half": _half,
    "outside": lambda runtime, picture, seed: ~runtime.draw_mask(picture, "block", share=0.25, seed=seed).pixels,
    "random-blocks": lambda runtime, picture, seed: runtime.draw_mask(picture, "random-blocks", seed=seed).pixels,
}
"""The kinds of masks; `outside` keeps a block alone."""


@dataclass(frozen=True, slots=True)
class Fit:
    """One kind of mask; the module says what the figures are."""

    mask: str
    colour: float
    contrast: float
    distance: float


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """Real pictures, uint8 [H, W, 3] each, with their labels, or None where they have none."""

    pixels: Sequence[NDArray[np.uint8]]
    labels: Sequence[str | None]

    @classmethod
    def drawn(cls, folder: Path, side: int, count: int) -> Pictures:
        """As many of a folder, in a fixed random order.

        Raises:
            InputError: it holds too few.
        """
        images = ImageFolder(folder, side)
        chosen = images.chosen(count)
        labels = [images.labels[images.label_ids[index]] if images.labels else None for index in chosen]
        return cls([images[index].numpy() for index in chosen], labels)

    def of_each_label(self) -> list[int]:
        """The first picture of each label, in the order of their names; the first of all where there are none."""
        return [self.labels.index(label) for label in sorted(set(self.labels), key=str)]


@click.command()
@click.option("--bundle", default="earth", show_default=True)
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True, help="Real pictures."
)
@click.option("--count", type=click.IntRange(2), default=256, show_default=True, help="Pictures for each kind of mask.")
@click.option("--mask", "kinds", type=click.Choice(list(MASKS)), multiple=True, default=list(MASKS), show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Figures, as JSON.")
@click.option("--sheet", type=click.Path(path_type=Path), default=SHEET, help="Picture of some: .png or .jpg.")
def main(bundle: str, data: Path, count: int, kinds: Sequence[str], results: Path, sheet: Path) -> None:
    """Repaint, measure, print and write."""
    try:
        with sundae_rt.load(bundle) as runtime:
            real = Pictures.drawn(data, image_side(runtime.manifest), count)
            shown = real.of_each_label()
            rows = [[real.pixels[index] for index in shown]]
            network = efficientnet_lite0()
            real_features = features_of(network, batched(real.pixels))
            fits = []
            for kind in kinds:
                masks = [MASKS[kind](runtime, picture, seed) for seed, picture in enumerate(real.pixels)]
                made = repainted(runtime, real, masks)
                distance = frechet_distance(features_of(network, batched(made)), real_features)
                fits.append(Fit(kind, *_fit(made, real.pixels, masks), round(distance, 1)))
                click.echo(str(fits[-1]))
                rows.append([np.where(masks[index][..., None], GREY, real.pixels[index]) for index in shown])
                rows.append([made[index] for index in shown])
            about = {"bundle": runtime.manifest.name, "backend": runtime.backend, "variant": runtime.variant}
    except SundaeError as error:
        raise click.ClickException(str(error)) from error
    written = {**about, "pictures": count, "fits": [asdict(fit) for fit in fits]}
    results.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    tiles = np.pad(np.concatenate([np.stack(row) for row in rows]), ((0, 0), (1, 1), (1, 1), (0, 0)))
    sheets.write(sheet, torch.from_numpy(tiles), columns=len(shown))
    click.echo(f"wrote {results} and {sheet}")


def repainted(runtime: sundae_rt.Runtime, real: Pictures, masks: Sequence[Mask]) -> list[NDArray[np.uint8]]:
    """Each picture with what its mask selects painted anew; picture i has seed i, and its own label."""

    def one(seed: int) -> NDArray[np.uint8]:
        label = real.labels[seed] if runtime.manifest.labels else None
        return np.asarray(runtime.inpaint(real.pixels[seed], masks[seed], seed=seed, label=label)[0].image)

    with ThreadPoolExecutor(CALLERS) as callers:
        return list(callers.map(one, range(len(masks))))


def _fit(
    made: Sequence[NDArray[np.uint8]], originals: Sequence[NDArray[np.uint8]], masks: Sequence[Mask]
) -> tuple[float, float]:
    """How far the mean colour under the masks is off, and how much contrast there is of what there was."""
    inside, before = ([picture[mask] for picture, mask in zip(side, masks, strict=True)] for side in (made, originals))
    off = [np.abs(new.mean(0) - old.mean(0)).mean() for new, old in zip(inside, before, strict=True)]
    contrast = np.median(contrasts(inside)) / np.median(contrasts(before))
    return round(float(np.mean(off)), 1), round(float(contrast), 2)


if __name__ == "__main__":
    main()
