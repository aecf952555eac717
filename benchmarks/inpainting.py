"""How well what a bundle paints into a picture fits what was there, for masks of several kinds.

``python -m benchmarks.inpainting --bundle earth --data runs/data/heldout`` repaints as many real pictures under each
kind of mask, with the same masks and seeds each time, and says of what was repainted:

- `colour`: how far its mean colour is from that of what was there, of 255, in the mean over pictures and channels;
- `contrast`: the standard deviation of its luminance, the median picture's as a share of the median original's;
- `distance`: the Fréchet distance of the repainted pictures, whole, to the originals (EfficientNet-Lite0, see
  `sundae_rt.training.frechet`; it compares at equal counts only, and is the smaller, the less is repainted).

There is more than one right picture: no figure can be perfect. `--bundle` may be given several times, for bundles of
one size of picture. Needs the extra `train`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

import sundae_rt
from benchmarks.looks import contrasts
from sundae_rt.errors import SundaeError
from sundae_rt.training.data import ImageFolder, image_side
from sundae_rt.training.features import efficientnet_lite0
from sundae_rt.training.frechet import batched, features_of, frechet_distance

RESULTS = Path(__file__).parent / "results" / "inpainting.json"
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
    """One bundle under one kind of mask; the module says what the figures are."""

    bundle: str
    mask: str
    colour: float
    contrast: float
    distance: float


@click.command()
@click.option("--bundle", "bundles", multiple=True, default=("earth",), show_default=True)
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True, help="Real pictures."
)
@click.option("--count", type=click.IntRange(2), default=256, show_default=True, help="Pictures for each kind of mask.")
@click.option("--mask", "kinds", type=click.Choice(list(MASKS)), multiple=True, default=list(MASKS), show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Figures, as JSON.")
def main(bundles: Sequence[str], data: Path, count: int, kinds: Sequence[str], results: Path) -> None:
    """Repaint, measure, print and write."""
    try:
        fits = [fit for bundle in bundles for fit in measure(bundle, data, count, kinds)]
    except SundaeError as error:
        raise click.ClickException(str(error)) from error
    about = {"pictures": count, "fits": [asdict(fit) for fit in fits]}
    results.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    click.echo(f"wrote {results}")


def measure(bundle: str, data: Path, count: int, kinds: Sequence[str]) -> list[Fit]:
    """How a bundle does under each kind of mask; picture i of the folder, in a fixed random order, has seed i.

    Raises:
        SundaeError: no such bundle, one that cannot inpaint, or a folder of other pictures than it makes.
        click.ClickException: the folder holds too few pictures.
    """
    fits = []
    with sundae_rt.load(bundle) as runtime:
        images = ImageFolder(data, image_side(runtime.manifest))
        if len(images) < count:
            raise click.ClickException(f"{data} holds {len(images)} pictures: --count {count} needs as many")
        chosen = [int(index) for index in np.random.default_rng(0).permutation(len(images))[:count]]
        originals = [images[index].numpy() for index in chosen]
        labels = [images.labels[images.label_ids[index]] for index in chosen] if images.labels else [None] * count
        network = efficientnet_lite0()
        real = features_of(network, batched(originals))
        for kind in kinds:
            masks = [MASKS[kind](runtime, picture, seed) for seed, picture in enumerate(originals)]

            def repainted(seed: int, masks: Sequence[Mask] = masks) -> NDArray[np.uint8]:
                label = labels[seed] if runtime.manifest.labels else None
                return np.asarray(runtime.inpaint(originals[seed], masks[seed], seed=seed, label=label)[0].image)

            with ThreadPoolExecutor(CALLERS) as callers:
                made = list(callers.map(repainted, range(count)))
            distance = frechet_distance(features_of(network, batched(made)), real)
            fits.append(Fit(bundle, kind, *_fit(made, originals, masks), round(distance, 1)))
            click.echo(str(fits[-1]))
    return fits


def _fit(
    made: Sequence[NDArray[np.uint8]], originals: Sequence[NDArray[np.uint8]], masks: Sequence[Mask]
) -> tuple[float, float]:
    """How far the mean colour under the masks is off, and how much contrast there is of what there was."""
    inside, before = ([picture[mask] for picture, mask in zip(side, masks, strict=True)] for side in (made, originals))
    off = [np.abs(new.mean(0) - old.mean(0)).mean() for new, old in zip(inside, before, strict=True)]
    contrast = np.median(_contrasts(inside)) / np.median(_contrasts(before))
    return round(float(np.mean(off)), 1), round(float(contrast), 2)


def _contrasts(pixels: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Of the pixels of each picture, uint8 [P, 3]."""
    return np.concatenate([contrasts(chosen[None, None]) for chosen in pixels])


if __name__ == "__main__":
    main()
