"""`sundae-rt train vqgan` and `sundae-rt train prior`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict, Unpack

import click

from sundae_rt.cli.options import FILE, Command


class _Run(TypedDict):
    """The options that either trainer takes as they are."""

    preset: str | None
    steps: int | None
    seed: int | None
    resume: bool


@click.group("train", short_help="Train a VQ-GAN, or a prior on its codes.")
def command() -> None:
    """Train a VQ-GAN on images, or a prior on the codes that `sundae-rt encode` makes with it."""


def _training_options(name: str, help: str) -> Callable[[Command], Command]:
    """The options of both trainings; `name` is the option of what is trained on."""
    # What --describe does without is not required here, but by `_needed`.
    added = (
        click.option(name, type=FILE, metavar=name[2:].upper(), help=help),
        click.option("--out", type=FILE, metavar="DIR", help="Folder for checkpoint, log and sample sheets."),
        click.option(
            "--preset", metavar="P|FILE", help="Sizes and settings: a name that ships, or a .toml file.  [earth]"
        ),
        click.option("--steps", type=click.IntRange(1), metavar="N", help="Training steps.  [the preset's]"),
        click.option("--seed", type=click.IntRange(0, 2**64 - 1), metavar="S", help="Seed.  [0]"),
        click.option(
            "--resume",
            is_flag=True,
            help="Go on exactly where the training in --out stopped; what is left out is as it began.",
        ),
        click.option("--describe", "describes", is_flag=True, help="Print sizes and parameter count as JSON; stop."),
    )

    def add(command: Command) -> Command:
        for option in reversed(added):
            command = option(command)
        return command

    return add


@command.command("vqgan")
@_training_options("--data", "Folder of images; its about.toml says what they are.")
@click.option(
    "--drawn-codes",
    type=FILE,
    metavar="CODES",
    help="Codes that a prior drew, for the decoder to learn on too; with --resume, once the codes are final.",
)
def vqgan(data: Path | None, out: Path | None, describes: bool, drawn_codes: Path | None, **run: Unpack[_Run]) -> None:
    """Train a VQ-GAN on a folder of images; writes OUT/vqgan.pt."""
    if describes:
        _describe("vqgan", run["preset"])
        return
    data, out = _needed("--data", data), _needed("--out", out)
    from sundae_rt.training.vqgan.train import train

    train(data, out, drawn_codes=drawn_codes, **run)


@command.command("prior")
@_training_options("--codes", "Data set of codes, as `sundae-rt encode` writes it.")
@click.option(
    "--distil",
    type=FILE,
    metavar="PRIOR",
    help="Train a student of this finished prior: on its guidance, or on pairs that it drew, to take few steps.",
)
def prior(codes: Path | None, out: Path | None, describes: bool, distil: Path | None, **run: Unpack[_Run]) -> None:
    """Train a prior on codes; writes OUT/prior.pt. The preset tells its family."""
    if describes:
        _describe("prior", run["preset"])
        return
    codes, out = _needed("--codes", codes), _needed("--out", out)
    from sundae_rt.training.prior.train import train

    train(codes, out, distil=distil, **run)


def _describe(kind: str, preset: str | None) -> None:
    from sundae_rt.training import describe

    click.echo(json.dumps(describe(kind, preset), indent=1))


def _needed(option: str, path: Path | None) -> Path:
    if path is None:
        raise click.UsageError(f"Missing option '{option}'.")
    return path
