"""Measures the bundle ``earth`` on the held-out band, and writes the figures into its manifest.

``python -m sundae_rt.training.earth.evaluate --bundle engines/earth --prior runs/earth/prior.pt --data data/earth``

Reconstruction, codebook and cross-entropy are measured on held-out crops. Fréchet distances compare 2,048 pictures
with 2,048: the bundle's samples, its reconstructions (the floor that the VQ-GAN sets), and another draw of real crops
(the zero of the scale), each against held-out crops, and the samples against training crops too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import sundae_rt
from sundae_rt.errors import InputError, SundaeError, shown
from sundae_rt.files import replacing
from sundae_rt.manifest import Manifest
from sundae_rt.schedule import MAX_STEPS
from sundae_rt.training import checkpoint
from sundae_rt.training.data import ImageFolder, image_side
from sundae_rt.training.features import efficientnet_lite0
from sundae_rt.training.frechet import BATCH, batched, features_of, frechet_distance, nearest_distances
from sundae_rt.training.prior.families import build_prior, family_name
from sundae_rt.training.prior.sundae import cross_entropy_at
from sundae_rt.training.vqgan.quantiser import perplexity

RATES = (0.25, 0.5, 0.75, 1.0)


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--prior", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True)
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option(
    "--count",
    type=click.IntRange(min=2),  # one picture has no covariance
    default=2048,
    show_default=True,
    help="Pictures in each set of a Fréchet distance.",
)
@click.option("--steps", type=click.IntRange(1, MAX_STEPS), default=20, show_default=True, help="Sampling steps.")
def main(bundle: Path, prior: Path, data: Path, count: int, steps: int) -> None:
    """Measures, prints and records."""
    try:
        record(bundle / "manifest.json", measure(bundle, prior, data, count, steps))
    except SundaeError as error:
        raise click.ClickException(str(error)) from error


def measure(bundle: Path, prior_path: Path, data: Path, count: int, steps: int) -> dict[str, Any]:
    """All figures of a bundle, as the manifest's ``provenance.metrics`` holds them.

    Raises:
        InputError: too few crops, labels that the prior does not know, or a prior that is not the bundle's.
        BundleError: the bundle cannot encode, decode and generate.
    """
    # The other variants are judged by fp32: see sundae_rt.training.compare.
    with sundae_rt.load(bundle, variant="fp32", max_waiting=count) as runtime:
        side = image_side(runtime.manifest)
        prior, labels = bundle_prior(prior_path, runtime.manifest)
        heldout, train = ImageFolder(data / "heldout", side), ImageFolder(data / "train", side)
        if len(heldout) < 2 * count or len(train) < count:
            raise InputError(
                f"{data} holds {len(heldout)} held-out and {len(train)} training crops: --count {count} needs "
                f"{2 * count} and {count}"
            )
        shuffled = np.random.default_rng(0).permutation(len(heldout))
        reference, others = shuffled[:count], shuffled[count : 2 * count]
        trained = np.random.default_rng(1).permutation(len(train))[: 4 * count]
        heldout_ids, train_ids = label_ids(heldout, labels, others), label_ids(train, labels, trained[:count])
        network = efficientnet_lite0()
        codes = np.concatenate([runtime.encode(batch) for batch in _batches(heldout, others)])
        train_codes = np.concatenate([runtime.encode(batch) for batch in _batches(train, trained[:count])])
        rebuilt = [runtime.decode(codes[start : start + BATCH]) for start in range(0, count, BATCH)]
        samples = _samples(runtime, count, steps)

    real = features_of(network, _batches(heldout, reference))
    other = features_of(network, _batches(heldout, others))
    seen = features_of(network, _batches(train, trained))
    made = features_of(network, batched(samples))
    return {
        "measured_on": "crops of longitudes 60 to 105 degrees east, which training never saw",
        "reconstruction_psnr": psnr(_batches(heldout, others), rebuilt),
        "codebook_perplexity": perplexity(torch.bincount(torch.from_numpy(codes).flatten().long())),
        "codes_used": len(np.unique(codes)),
        "cross_entropy_heldout": cross_entropies(prior, codes, heldout_ids),
        "cross_entropy_training": cross_entropies(prior, train_codes, train_ids),
        "frechet": {
            "what": f"EfficientNet-Lite0 features, {count} pictures a set; not Inception FID",
            "samples_to_heldout": frechet_distance(made, real),
            "reconstructions_to_heldout": frechet_distance(features_of(network, rebuilt), real),
            "other_heldout_to_heldout": frechet_distance(other, real),
            "training_to_heldout": frechet_distance(seen[:count], real),
            "samples_to_training": frechet_distance(made, seen[:count]),
            "sampling_steps": steps,
        },
        "nearest_training_crop": {
            "what": f"median and 1st percentile of the cosine distance to the nearest of {len(seen)} training crops",
            "samples": _spread(nearest_distances(made, seen)),
            "heldout_crops": _spread(nearest_distances(real, seen)),
        },
    }


def bundle_prior(path: Path, manifest: Manifest) -> tuple[nn.Module, list[str] | None]:
    """The prior that the bundle was exported from, and its labels.

    Raises:
        InputError: an absorbing prior, whose codes are masked and not replaced at a rate; or another prior than the
            bundle's: what differs is named, with both sides.
    """
    values, where = checkpoint.load(path, "prior"), str(path)
    family = family_name(values, where)
    if family != "sundae":
        raise InputError(f"{path} is of the family {family!r}: cross-entropies at a rate are those of 'sundae' alone")
    prior = build_prior(values, where)
    origin = {half: manifest.provenance.get(half, {}) for half in ("prior", "vqgan")}
    sides = [
        ("family", family, manifest.family),
        ("VQ-GAN (codes_sha256)", values["vqgan"]["codes_sha256"], origin["vqgan"].get("codes_sha256")),
        ("vocabulary", prior.config.vocabulary, manifest.vocabulary),
        ("latent grid", tuple(prior.config.latent_grid), manifest.latent_grid),
        ("labels", values["labels"], None if manifest.labels is None else list(manifest.labels)),
        # Export copies a prior's provenance: two trainings on the same codes differ in these.
        *((name, values["provenance"].get(name), origin["prior"].get(name)) for name in ("images", "steps", "seed")),
    ]
    for name, own, wanted in sides:
        if own != wanted:
            raise InputError(
                f"{path} is not the prior of the bundle {manifest.name!r}: its {name} is {shown(own)}, the bundle's "
                f"{shown(wanted)}"
            )
    checkpoint.load_weights(prior, values["weights"], where)
    return prior.eval(), values["labels"]


def label_ids(images: ImageFolder, labels: list[str] | None, indices: NDArray[np.int64]) -> Tensor | None:
    """The prior's numbers for the labels of these images, int64 ``[N]``; None where the prior has no labels.

    A folder numbers its own labels, and may lack some of the prior's.

    Raises:
        InputError: images without labels, or with one that the prior does not know.
    """
    if labels is None:
        return None
    own = images.labels or []
    if not own or not set(own) <= set(labels):
        raise InputError(f"{images.files[0]} and its like have the labels {shown(own)}, the prior has {shown(labels)}")
    return torch.tensor([labels.index(own[images.label_ids[int(index)]]) for index in indices])


def psnr(originals: Iterable[NDArray[np.uint8]], rebuilt: Iterable[NDArray[np.uint8]]) -> float:
    """Mean over pictures of 10 log10(255^2 / mean squared error), both sides in batches ``[B, H, W, 3]``."""
    values: list[float] = []
    for first, second in zip(originals, rebuilt, strict=True):
        errors = np.square(first.astype(np.float64) - second).mean((1, 2, 3))
        values.extend(10 * math.log10(255**2 / max(float(error), 1e-9)) for error in errors)
    return float(np.mean(values))


def cross_entropies(prior: nn.Module, codes: NDArray[np.int32], labels: Tensor | None) -> dict[str, float]:
    """By corruption rate: the mean over all of ``codes [N, h, w]``, in nats a code; ``labels``: ``[N]`` or None."""
    torch.manual_seed(0)
    grids = torch.from_numpy(codes).flatten(1).long().split(BATCH)
    ids = [None] * len(grids) if labels is None else labels.split(BATCH)
    pairs, sizes = list(zip(grids, ids, strict=True)), [len(grid) for grid in grids]
    return {
        str(rate): float(np.average([cross_entropy_at(prior, *pair, rate) for pair in pairs], weights=sizes))
        for rate in RATES
    }


def record(path: Path, metrics: dict[str, Any]) -> None:
    """Puts the figures into the manifest ``path``, in place of earlier ones, and prints them."""
    rounded = _rounded(metrics)
    manifest = Manifest.from_json(path.read_text(encoding="utf-8"))
    manifest = dataclasses.replace(manifest, provenance={**manifest.provenance, "metrics": rounded})
    with replacing(path) as temporary:
        temporary.write_text(manifest.to_json(), encoding="utf-8")
    for name, value in rounded.items():
        click.echo(f"{name}: {value}")


def _batches(images: ImageFolder, indices: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    return batched(images[int(index)].numpy() for index in indices)


def _samples(runtime: sundae_rt.Runtime, count: int, steps: int) -> NDArray[np.uint8]:
    side = image_side(runtime.manifest)
    pictures = np.zeros((count, side, side, 3), np.uint8)
    with click.progressbar(runtime.stream(n=count, steps=steps), length=count, label="sampling") as bar:
        for sample in bar:
            pictures[sample.index] = np.asarray(sample.image)
    return pictures


def _spread(distances: NDArray[np.float64]) -> list[float]:
    return [float(np.percentile(distances, percent)) for percent in (50, 1)]


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
