"""Judges a faster variant of a bundle by its pictures, and writes the figures into the bundle's manifest.

``python -m sundae_rt.training.compare --bundle earth-bundle --variant int8 --data data/earth/heldout``

Export measures what a variant does to one step. This measures what it does to whole pictures: Fréchet distances to
real ones, of as many samples by the variant and by fp32, from the same seeds, three times. How far fp32's three
distances lie apart is what chance alone does, and in the mean a variant may not be further off than that.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import click
import numpy as np

import sundae_rt
from sundae_rt.errors import BundleError, SundaeError
from sundae_rt.files import replacing
from sundae_rt.manifest import Manifest
from sundae_rt.schedule import MAX_STEPS
from sundae_rt.training.data import ImageFolder, image_side
from sundae_rt.training.features import efficientnet_lite0
from sundae_rt.training.frechet import batched, features_of, frechet_distance

RUNS = 3
"""Sets of samples of each. One pair alone says little: of 512 pictures a side it came out 9 apart, and the mean 1."""


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--variant", required=True, help="Variant of the denoiser to judge.")
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option(
    "--count",
    type=click.IntRange(min=2),  # one picture has no covariance
    default=2048,
    show_default=True,
    help="Pictures in each set.",
)
@click.option("--steps", type=click.IntRange(1, MAX_STEPS), default=20, show_default=True, help="Sampling steps.")
def main(bundle: Path, variant: str, data: Path, count: int, steps: int) -> None:
    """Measures, prints, records, and fails where the variant is further off than chance."""
    try:
        figures = measure(bundle, variant, data, count, steps)
        record(bundle / "manifest.json", variant, figures)
        for name, value in figures.items():
            click.echo(f"{name}: {value}")
        check(variant, figures)
    except SundaeError as error:
        raise click.ClickException(str(error)) from error


def measure(bundle: Path, variant: str, data: Path, count: int, steps: int) -> dict[str, Any]:
    """The figures: the distances to real pictures of three sets of the variant's samples, and of fp32's three.

    Args:
        bundle: a bundle's folder.
        variant: of its denoiser.
        data: a folder of real pictures, best of such as training never saw.
        count: pictures in each set.
        steps: sampling steps.

    Raises:
        InputError: too few pictures.
        BundleError: the bundle has no such variant, or makes no square pictures.
    """
    manifest = Manifest.from_json((bundle / "manifest.json").read_bytes())
    images = ImageFolder(data, image_side(manifest))
    chosen, network = images.chosen(count), efficientnet_lite0()
    real = features_of(network, batched(images[index].numpy() for index in chosen))

    # One backend for all of them: what is judged is the variant, and auto might take another for each.
    with sundae_rt.load(bundle, variant=variant) as judged:
        backend = judged.backend

    def distance(of: str, seed: int) -> float:
        with sundae_rt.load(bundle, backend=backend, variant=of, max_waiting=count) as runtime:
            samples = runtime.stream(n=count, seed=seed, steps=steps)
            made = features_of(network, batched(np.asarray(sample.image) for sample in samples))
        return round(frechet_distance(made, real), 4)

    seeds = [run * count for run in range(RUNS)]
    return {
        "what": f"to {count} real pictures, EfficientNet-Lite0 features, {steps} steps; not Inception FID",
        "first_seeds": seeds,
        "variant": [distance(variant, seed) for seed in seeds],
        "fp32": [distance("fp32", seed) for seed in seeds],
    }


def check(variant: str, figures: dict[str, Any]) -> None:
    """Refuses a variant whose mean distance is over fp32's by more than fp32's own lie apart from seed to seed.

    Raises:
        BundleError: it is; one line.
    """
    own, fp32 = figures["variant"], figures["fp32"]
    rise, spread = float(np.mean(own) - np.mean(fp32)), max(fp32) - min(fp32)
    if not rise <= spread:
        raise BundleError(
            f"the variant {variant} makes other pictures than fp32: its Fréchet distance is {rise:.4g} larger, and "
            f"chance explains {spread:.4g}: export the bundle without it"
        )


def record(path: Path, variant: str, figures: dict[str, Any]) -> None:
    """Puts the figures into the manifest ``path``, under the variant's price."""
    manifest = Manifest.from_json(path.read_bytes())
    checks = copy.deepcopy(dict(manifest.checks))
    checks.setdefault("variants", {}).setdefault(variant, {}).setdefault("denoiser", {})["frechet"] = figures
    with replacing(path) as temporary:
        temporary.write_text(dataclasses.replace(manifest, checks=checks).to_json(), encoding="utf-8")


if __name__ == "__main__":
    main()
