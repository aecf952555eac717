"""Codes that a faster variant is calibrated on, and others that its price is measured on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sundae_rt import noise
from sundae_rt.errors import InputError
from sundae_rt.export.halves import PriorHalf
from sundae_rt.export.running import Arrays, Run
from sundae_rt.families import FAMILIES, Step
from sundae_rt.training import encoding

CALIBRATED = 24
"""Grids that are corrupted to calibrate on."""
COVERING = 128
"""Grids whose pictures an 8-bit decoder's ranges cover: a kind of picture that none of them shows it would distort."""
MEASURED = 64
"""Grids that a price is measured on."""
SAMPLED = 4
"""Images whose sampling is calibrated on as well."""
OWN = 16
"""Images that are sampled where nobody gave codes: they stand in for both."""
STEPS = 12
"""Steps of that sampling."""
ROWS = 4
"""Rows of a batch."""
CALIBRATION_RATES = (0.05, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Codes of real images, or samples of the model's own, in two parts that share no image.

    ``calibration``, ``heldout``: int32 ``[N, T]``; ``calibration_labels``, ``heldout_labels``: int32 ``[N]``, or None
    where the prior has no labels; ``covering``: what a decoder is calibrated on, the calibration part and more of its
    kind; ``sampling``: the inputs of some steps of real sampling; ``origin``: what they are.
    """

    calibration: NDArray[np.int32]
    calibration_labels: NDArray[np.int32] | None
    heldout: NDArray[np.int32]
    heldout_labels: NDArray[np.int32] | None
    covering: NDArray[np.int32]
    origin: str
    sampling: list[Arrays] = field(default_factory=list)

    def calibration_batches(self, prior: PriorHalf) -> Iterator[Arrays]:
        """What the denoiser sees when it trains and when it samples."""
        rng = np.random.default_rng(0)
        for start in range(0, len(self.calibration), ROWS):
            rows = slice(start, start + ROWS)
            rate = CALIBRATION_RATES[start // ROWS % len(CALIBRATION_RATES)]
            codes = corrupted(self.calibration[rows], rate, prior, rng)
            yield denoiser_inputs(codes, _part(self.calibration_labels, rows), rng)
        yield from self.sampling


def read_examples(path: Path, prior: PriorHalf, codes_sha256: str | None, run: Run) -> Examples:
    """Codes that ``sundae-rt encode`` wrote, in an order of chance; the first calibrate and the next are held out.

    Args:
        path: the file.
        prior: whose codes they must be.
        codes_sha256: of the VQ-GAN that the bundle gets, where it gets one.
        run: the prior's fp32 denoiser, for some steps of sampling.

    Raises:
        InputError: not such a file, too few grids, or codes, sizes or labels of another model.
    """
    data = encoding.read(path)
    sizes = prior.model.config
    named = prior.pairing.codes_sha256 if codes_sha256 is None and prior.pairing is not None else codes_sha256
    if named is not None and data.codes_sha256 != named:
        raise InputError(f"{path} holds codes of another VQ-GAN ({data.codes_sha256[:12]}; the model's: {named[:12]})")
    if tuple(data.codes.shape[1:]) != tuple(sizes.latent_grid):
        raise InputError(f"{path} has grids of {list(data.codes.shape[1:])}, the prior of {list(sizes.latent_grid)}")
    if prior.labels is not None and (data.labels is None or not set(data.labels) <= set(prior.labels)):
        raise InputError(f"{path} has the labels {list(data.labels or ())}, the prior {list(prior.labels)}")
    if len(data.codes) < 2 * ROWS:
        raise InputError(f"{path} holds {len(data.codes)} grids: to calibrate and measure takes {2 * ROWS} or more")
    codes = data.codes.flatten(1).numpy().astype(np.int32)
    if codes.max() >= sizes.vocabulary:
        raise InputError(f"{path} holds the code {codes.max()}, but the prior knows {sizes.vocabulary}")
    labels = None
    if prior.labels is not None:
        numbers = np.array([prior.labels.index(name) for name in data.labels or ()], np.int32)
        labels = numbers[data.label_ids.numpy()]
    order = np.random.default_rng(0).permutation(len(codes))
    first = min(CALIBRATED, len(codes) // 2)
    calibration, heldout, rest = np.split(order, [first, first + MEASURED])
    covering = np.concatenate((calibration, rest))[:COVERING]
    origin = f"{len(heldout)} grids of {path.name}, none of which calibrated it"
    _, _, sampling = _sampled(prior, run, SAMPLED)
    return Examples(
        codes[calibration],
        _part(labels, calibration),
        codes[heldout],
        _part(labels, heldout),
        codes[covering],
        origin,
        sampling,
    )


def own_examples(prior: PriorHalf, run: Run) -> Examples:
    """Samples of the model itself, by its fp32 denoiser: one half calibrates, the other is held out."""
    codes, labels, sampling = _sampled(prior, run, OWN)
    half = OWN // 2
    first, other = slice(half), slice(half, OWN)
    origin = f"{half} samples of the model's own, for want of real codes"
    return Examples(
        codes[first], _part(labels, first), codes[other], _part(labels, other), codes[first], origin, sampling
    )


def corrupted(codes: NDArray[np.int32], rate: float, prior: PriorHalf, rng: np.random.Generator) -> NDArray[np.int32]:
    """Replaces this share of the codes by random ones, or by the mask where the prior's family has one."""
    vocabulary = prior.model.config.vocabulary
    masks = FAMILIES[prior.family](vocabulary).input_codes > vocabulary
    others = np.full_like(codes, vocabulary) if masks else rng.integers(0, vocabulary, codes.shape, np.int32)
    return np.where(rng.random(codes.shape) < rate, others, codes)


def denoiser_inputs(
    codes: NDArray[np.int32], labels: NDArray[np.int32] | None, rng: np.random.Generator, temperature: float = 1.0
) -> Arrays:
    """The inputs of one step that writes everywhere, without guidance."""
    inputs: dict[str, NDArray[Any]] = {
        "codes": codes,
        "temperature": np.full(len(codes), temperature, np.float32),
        "uniform": rng.random(codes.shape, np.float32),
        "update": np.ones(codes.shape, np.bool_),
    }
    if labels is not None:
        inputs |= {"label": labels, "guidance": np.ones(len(codes), np.float32)}
    return inputs


def _sampled(
    prior: PriorHalf, run: Run, count: int
) -> tuple[NDArray[np.int32], NDArray[np.int32] | None, list[Arrays]]:
    """Samples by the family's own rules: the codes, their labels, and the first images' inputs of every third step."""
    places = int(np.prod(prior.model.config.latent_grid))
    family = FAMILIES[prior.family](prior.model.config.vocabulary)
    steps = min(prior.schedule.steps, STEPS)
    schedule = prior.schedule.with_changes(steps=steps, order="uniform")
    codes = np.stack([family.start(seed, places) for seed in range(count)])
    labels = None if prior.labels is None else np.arange(count, dtype=np.int32) % len(prior.labels)
    rng, seen = np.random.default_rng(1), []
    everywhere = np.ones(places, np.bool_)
    for index in range(steps):
        inputs = denoiser_inputs(codes, labels, rng, schedule.temperature_at(index))
        proposals = np.concatenate([run(batch)["proposal"] for batch in batches(inputs)])
        if index % 3 == 0:
            seen.append(next(batches(inputs)))
        draws = [noise.step(seed, index, places)[1] for seed in range(count)]
        turns = [Step(schedule, index, row, everywhere, draw) for row, draw in zip(codes, draws, strict=True)]
        written = np.stack([family.written(turn, np.zeros(places, np.float32)) for turn in turns])
        codes = np.where(written, proposals, codes)
    return codes, labels, seen


def batches(inputs: Arrays, rows: int = ROWS) -> Iterator[Arrays]:
    """A graph's inputs in parts of so many rows, at most."""
    for start in range(0, len(inputs["codes"]), rows):
        yield {name: array[start : start + rows] for name, array in inputs.items()}


def _part(labels: NDArray[np.int32] | None, rows: Any) -> NDArray[np.int32] | None:
    return None if labels is None else labels[rows]
