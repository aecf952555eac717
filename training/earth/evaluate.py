"""Measures the bundle ``earth`` on the held-out band, and writes the figures into its manifest.

``python -m sundae_rt.training.earth.evaluate --bundle engines/earth --prior runs/earth/prior.pt --data data/earth``

Reconstruction, codebook and cross-entropy are measured on held-out crops. Fréchet distances compare 2,048 pictures
with 2,048: the bundle's samples, its reconstructions (the floor that the VQ-GAN sets), and another draw of real crops
(the zero of the scale), each against held-out crops, and the samples against training crops too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

import sundae_rt
from sundae_rt.files import replacing
from sundae_rt.manifest import Manifest
from sundae_rt.training import checkpoint, config
from sundae_rt.training.data import ImageFolder
from sundae_rt.training.features import efficientnet_lite0
from sundae_rt.training.frechet import features_of, frechet_distance, nearest_distances
from sundae_rt.training.prior.hourglass import HourglassConfig, HourglassPrior
from sundae_rt.training.prior.sundae import cross_entropy_at
from sundae_rt.training.vqgan.quantiser import perplexity

RATES = (0.25, 0.5, 0.75, 1.0)
BATCH = 32


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--prior", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True)
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--count", default=2048, show_default=True, help="Pictures in each set of a Fréchet distance.")
@click.option("--steps", default=20, show_default=True, help="Sampling steps.")
def main(bundle: Path, prior: Path, data: Path, count: int, steps: int) -> None:
    """Measures, prints and records."""
    side = _side(bundle)
    heldout = ImageFolder(data / "heldout", side)
    train = ImageFolder(data / "train", side)
    if len(heldout) < 2 * count or len(train) < count:
        raise click.ClickException(f"{2 * count} held-out crops are needed, and {count} for training")
    shuffled = np.random.default_rng(0).permutation(len(heldout))
    reference, others = shuffled[:count], shuffled[count : 2 * count]
    trained = np.random.default_rng(1).permutation(len(train))[: 4 * count]

    with sundae_rt.load(bundle) as runtime:
        codes = np.concatenate([runtime.encode(batch) for batch in _batches(heldout, others)])
        train_codes = np.concatenate([runtime.encode(batch) for batch in _batches(train, trained[:count])])
        rebuilt = [runtime.decode(codes[start : start + BATCH]) for start in range(0, count, BATCH)]
        samples = _samples(runtime, count, steps)

    metrics: dict[str, Any] = {
        "measured_on": "crops of longitudes 60 to 105 degrees east, which training never saw",
        "reconstruction_psnr": _psnr(_batches(heldout, others), rebuilt),
        "codebook_perplexity": perplexity(torch.bincount(torch.from_numpy(codes).flatten().long())),
        "codes_used": len(np.unique(codes)),
        "cross_entropy_heldout": _cross_entropies(prior, codes, heldout, others),
        "cross_entropy_training": _cross_entropies(prior, train_codes, train, trained[:count]),
    }
    network = efficientnet_lite0()
    real = features_of(network, _batches(heldout, reference))
    other = features_of(network, _batches(heldout, others))
    seen = features_of(network, _batches(train, trained))
    made = features_of(network, (samples[start : start + BATCH] for start in range(0, count, BATCH)))
    metrics["frechet"] = {
        "what": f"EfficientNet-Lite0 features, {count} pictures a set; not Inception FID",
        "samples_to_heldout": frechet_distance(made, real),
        "reconstructions_to_heldout": frechet_distance(features_of(network, rebuilt), real),
        "other_heldout_to_heldout": frechet_distance(other, real),
        "training_to_heldout": frechet_distance(seen[:count], real),
        "samples_to_training": frechet_distance(made, seen[:count]),
        "sampling_steps": steps,
    }
    metrics["nearest_training_crop"] = {
        "what": f"median and 1st percentile of the cosine distance to the nearest of {len(seen)} training crops",
        "samples": _spread(nearest_distances(made, seen)),
        "heldout_crops": _spread(nearest_distances(real, seen)),
    }
    _record(bundle / "manifest.json", metrics)


def _batches(images: ImageFolder, indices: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(indices), BATCH):
        yield np.stack([images[int(index)].numpy() for index in indices[start : start + BATCH]])


def _side(bundle: Path) -> int:
    """Pixels along one side of the bundle's pictures."""
    size = Manifest.from_json((bundle / "manifest.json").read_bytes()).image_size
    if size is None:
        raise click.ClickException(f"{bundle} has no decoder: there are no pictures to measure")
    return size[0]


def _samples(runtime: sundae_rt.Runtime, count: int, steps: int) -> NDArray[np.uint8]:
    height, width = runtime.manifest.image_size or (0, 0)
    pictures = np.zeros((count, height, width, 3), np.uint8)
    with click.progressbar(runtime.stream(n=count, steps=steps), length=count, label="sampling") as bar:
        for sample in bar:
            pictures[sample.index] = np.asarray(sample.image)
    return pictures


def _psnr(originals: Iterator[NDArray[np.uint8]], rebuilt: list[NDArray[np.uint8]]) -> float:
    """Mean over pictures of 10 log10(255^2 / mean squared error)."""
    values: list[float] = []
    for first, second in zip(originals, rebuilt, strict=True):
        errors = np.square(first.astype(np.float64) - second).mean((1, 2, 3))
        values.extend(10 * math.log10(255**2 / max(float(error), 1e-9)) for error in errors)
    return float(np.mean(values))


def _cross_entropies(
    path: Path, codes: NDArray[np.int32], images: ImageFolder, indices: NDArray[np.int64]
) -> dict[str, float]:
    values = checkpoint.load(path, "prior")
    prior = HourglassPrior(config.build(HourglassConfig, values["config"], str(path)))
    checkpoint.load_weights(prior, values["weights"], str(path))
    prior.eval()
    torch.manual_seed(0)
    ids = torch.tensor(images.label_ids)[torch.from_numpy(indices)]
    flat = torch.from_numpy(codes).flatten(1).long()
    parts = range(0, len(flat), BATCH)
    return {
        str(rate): float(
            np.mean([cross_entropy_at(prior, flat[at : at + BATCH], ids[at : at + BATCH], rate) for at in parts])
        )
        for rate in RATES
    }


def _spread(distances: NDArray[np.float64]) -> list[float]:
    return [float(np.percentile(distances, percent)) for percent in (50, 1)]


def _record(path: Path, metrics: dict[str, Any]) -> None:
    rounded = _rounded(metrics)
    manifest = Manifest.from_json(path.read_text(encoding="utf-8"))
    manifest = dataclasses.replace(manifest, provenance={**manifest.provenance, "metrics": rounded})
    with replacing(path) as temporary:
        temporary.write_text(manifest.to_json(), encoding="utf-8")
    for name, value in rounded.items():
        click.echo(f"{name}: {value}")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
