"""Pairs of noise and of what a prior makes of it, for a student of few steps to learn from.

``python -m sundae_rt.training.prior.pairs --bundle my-bundle --n 6144 --out runs/pairs.safetensors``

What one step draws at different positions is independent given what it sees, so a model of few steps has to see what
joins them. In a chain as `sundae-rt generate` runs it little of that is in the noise, because each step draws anew.
Here each position draws with one number all the way, which its random code at the start gives away; and what else
chance decides, the order of writing, is the same in all chains. So the noise alone decides the picture, and a model
that sees the noise can learn which (Yoo et al. 2025, rectified discrete flow, join the two by ordinary chains).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Unpack

import click
import numpy as np
import torch
from numpy.typing import NDArray

import sundae_rt
from sundae_rt import noise
from sundae_rt.conditioning import Conditioning
from sundae_rt.errors import InputError, SundaeError
from sundae_rt.families import Step, Sundae
from sundae_rt.files import check_new
from sundae_rt.schedule import Schedule, Settings
from sundae_rt.training import encoding
from sundae_rt.training.encoding import LatentDataset
from sundae_rt.training.vqgan.drawn import made_by

BATCH = 16
"""Chains side by side."""


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), required=True, help="A bundle with the prior to draw from.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file to write.")
@click.option("--n", type=click.IntRange(1), default=6144, show_default=True, help="Pairs to draw.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the first pair.")
@click.option("--temperature", type=float, help="Of all steps.  [the bundle's]")
@click.option("--choice-temperature", type=float, help="Of all steps.  [the bundle's]")
def main(
    bundle: Path, out: Path, n: int, seed: int, temperature: float | None, choice_temperature: float | None
) -> None:
    """Draws pairs by the bundle's schedule, and writes them as codes with the noise beside them.

    Every chain takes all its steps, none stops by itself; labels are drawn, in the shares of the bundle's data.
    """
    try:
        check_new(out)
        drawn = draw(bundle, n, seed, temperature=temperature, choice_temperature=choice_temperature)
        encoding.write(out, drawn)
    except SundaeError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"wrote {out}: {n} pairs")


def draw(bundle: Path, n: int, seed: int = 0, **settings: Unpack[Settings]) -> LatentDataset:
    """``n`` pairs of a bundle's prior, labels in the shares of its data.

    Raises:
        SundaeError: no such bundle, one that cannot draw, or settings out of range.
        InputError: it is of another family than ``sundae``, or does not say which VQ-GAN its codes belong to.
    """
    with sundae_rt.load(bundle) as runtime:
        manifest, weights = runtime.manifest, Conditioning(runtime.manifest).label_weights
        if manifest.family != "sundae":
            raise InputError(
                f"bundle {manifest.name!r} is of the family {manifest.family!r}: only 'sundae' starts from noise"
            )
        codes_sha256, schedule = made_by(manifest), runtime.schedule(**settings)
        seeds = noise.seeds(seed, n)
        labels = None if weights is None else np.array([noise.label(one, weights) for one in seeds], np.int32)
        starts, ends = [], []
        with click.progressbar(range(0, n, BATCH), label="drawing") as firsts:
            for first in firsts:
                chosen = slice(first, first + BATCH)
                start, end = _chains(runtime, schedule, seeds[chosen], None if labels is None else labels[chosen])
                starts.append(start)
                ends.append(end)
    return LatentDataset(
        torch.from_numpy(np.concatenate(ends)),
        manifest.image_codes,
        manifest.labels,
        None if labels is None else torch.from_numpy(labels),
        None,
        codes_sha256,
        noise=torch.from_numpy(np.concatenate(starts)),
        drawn={"bundle": manifest.name, "seed": seed, "schedule": asdict(schedule)},
    )


def _chains(
    runtime: sundae_rt.Runtime, schedule: Schedule, seeds: range, labels: NDArray[np.int32] | None
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Noise and what becomes of it in all steps of the schedule, int32 ``[B, h, w]`` each."""
    grid, vocabulary = runtime.manifest.latent_grid, runtime.manifest.vocabulary
    family = Sundae(vocabulary)
    positions = grid[0] * grid[1]
    start = np.stack([family.start(one, positions) for one in seeds])
    draws = np.stack([noise.uniforms(one, noise.Purpose.INITIAL_CODES, positions) for one in seeds])
    # The middle of the range away: with the number of the code itself, what is noise would seem to be likely.
    uniform = ((draws + np.float32(0.5)) % 1).reshape(-1, *grid)
    everywhere = np.ones(positions, np.bool_)
    codes = start.copy()
    for index in range(schedule.steps):
        _, proposal, confidence = runtime.denoise(
            codes.reshape(-1, *grid),
            schedule.temperature_at(index),
            uniform,
            np.ones_like(uniform, np.bool_),
            labels,
            None if labels is None else schedule.guidance,
        )
        _, order = noise.step(0, index, positions)
        for row, (proposed, sure) in enumerate(zip(proposal, confidence, strict=True)):
            written = family.written(Step(schedule, index, codes[row], everywhere, order), sure.ravel())
            codes[row] = np.where(written, proposed.ravel(), codes[row])
    return start.reshape(-1, *grid), codes.reshape(-1, *grid)


if __name__ == "__main__":
    main()
