"""The options that commands share, each written once."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sundae_rt.cli.interrupts import held_back
from sundae_rt.engines import DEFAULT

if TYPE_CHECKING:
    from sundae_rt.runtime import Runtime
    from sundae_rt.schedule import Ancestral, Order, Schedule, Settings, Stop

Command = Callable[..., None]

FILE = click.Path(path_type=Path)
"""The type of an option that names a file or folder."""


@dataclass(frozen=True, slots=True)
class Engine:
    """Which bundle runs on what: the options of `engine_options`."""

    bundle: str | None
    backend: str
    variant: str
    batch_size: int

    def load(self, waiting: int) -> "Runtime":
        """Open the runtime, with room for `waiting` images in its queue."""
        with held_back():
            from sundae_rt.runtime import load

            return load(
                DEFAULT if self.bundle is None else self.bundle,
                backend=self.backend,
                variant=self.variant,
                batch_size=self.batch_size,
                max_waiting=waiting,
            )


@dataclass(frozen=True, slots=True)
class Sampling:
    """What to sample: the options of `sampling_options`. Values are checked where they are used, by the runtime."""

    n: int
    seed: int
    label: str | None
    settings: "Settings"

    def schedule(self, runtime: "Runtime") -> "Schedule":
        """What the runtime makes of the settings; one that would change nothing is refused."""
        schedule = runtime.schedule(**self.settings)
        if schedule.order == "uniform" and self.settings.get("choice_temperature") not in (None, (0.0, 0.0)):
            raise click.UsageError("--choice-temperature is for --order confidence, and the order is uniform.")
        return schedule


def engine_options(command: Command) -> Command:
    """Add the options that choose bundle and backend; the command gets them as `engine: Engine`."""

    @click.option(
        "--bundle",
        metavar="NAME|PATH",
        help=f"Bundle to run: a name that ships, else a path; ./NAME is always a path.  [{DEFAULT}]",
    )
    @click.option(
        "--backend",
        default="auto",
        metavar="NAME",
        show_default=True,
        help="What runs it: auto, cpu, openvino, cuda, tensorrt.",
    )
    @click.option(
        "--variant", default="auto", metavar="NAME", show_default=True, help="Precision: auto, fp32, bf16, ..."
    )
    @click.option(
        "--batch-size",
        type=click.IntRange(1, 2**16),
        default=8,
        metavar="N",
        show_default=True,
        help="Images that step together, at most.",
    )
    @functools.wraps(command)
    def with_engine(*args: Any, bundle: str | None, backend: str, variant: str, batch_size: int, **rest: Any) -> None:
        command(*args, engine=Engine(bundle, backend, variant, batch_size), **rest)

    return with_engine


def sampling_options(unlabelled: str) -> Callable[[Command], Command]:
    """Add the options that say what to sample; the command gets them as `sampling: Sampling`.

    Args:
        unlabelled: what its images are without `--label`.
    """
    return functools.partial(_with_sampling_options, unlabelled)


def _with_sampling_options(unlabelled: str, command: Command) -> Command:

    @click.option("--n", type=click.IntRange(1), default=1, metavar="N", show_default=True, help="Images to make.")
    @click.option(
        "--seed",
        type=click.IntRange(0, 2**64 - 1),
        default=0,
        metavar="S",
        show_default=True,
        help="Image i has the seed S + i.",
    )
    @click.option("--steps", type=click.IntRange(1), metavar="N", help="Denoising steps at most.  [the bundle's]")
    @click.option(
        "--temperature", type=_pair, metavar="A:B", help="From the first step to the last; or one A.  [the bundle's]"
    )
    @click.option(
        "--proportion",
        type=_proportion,
        metavar="A:B",
        help="Share of codes to write, from the first step to the last, in (0, 1]; or one A; or ancestral, as noise "
        "diffusion in reverse: 1/N, 1/(N-1), ... 1.  [the bundle's]",
    )
    @click.option(
        "--min-steps",
        type=click.IntRange(0),
        metavar="N",
        help="Steps that an image takes at least; with --stop published one more.  [the bundle's]",
    )
    @click.option(
        "--stop",
        metavar="RULE",
        help="Images stop when the model proposes no change (proposal), or, as in the published code, when a step "
        "changed nothing (published).  [the bundle's]",
    )
    @click.option(
        "--order",
        metavar="RULE",
        help="Codes to write are chosen by chance (uniform), or those the model is least sure of (confidence).  "
        "[the bundle's]",
    )
    @click.option(
        "--choice-temperature",
        type=_pair,
        metavar="A:B",
        help="With --order confidence: noise on the choice, from the first step to the last; or one A.  [the bundle's]",
    )
    @click.option("--label", metavar="NAME", help=f"Label of all images.  [{unlabelled}]")
    @click.option("--guidance", type=float, metavar="G", help="Classifier-free guidance; 1 is off.  [the bundle's]")
    @functools.wraps(command)
    def with_sampling(
        *args: Any,
        n: int,
        seed: int,
        steps: int | None,
        temperature: tuple[float, float] | None,
        proportion: "tuple[float, float] | Ancestral | None",
        min_steps: int | None,
        label: str | None,
        guidance: float | None,
        stop: "Stop | None",
        order: "Order | None",
        choice_temperature: tuple[float, float] | None,
        **rest: Any,
    ) -> None:
        settings: Settings = {
            "steps": steps,
            "temperature": temperature,
            "proportion": proportion,
            "min_steps": min_steps,
            "guidance": guidance,
            "stop": stop,
            "order": order,
            "choice_temperature": choice_temperature,
        }
        command(*args, sampling=Sampling(n, seed, label, settings), **rest)

    return with_sampling


def grid_option(command: Command) -> Command:
    """Add `--grid FILE`, which the command gets as `grid: Path | None`."""
    return click.option("--grid", type=FILE, metavar="FILE", help="Also write a contact sheet: .png, .jpg or .webp.")(
        command
    )


def check_png(path: Path) -> None:
    """Refuse an output that is no PNG, which alone keeps pixels and settings exactly."""
    if path.suffix.lower() != ".png":
        raise click.BadParameter(f"{path} must end in .png, which keeps pixels exactly", param_hint="'-o'")


def _pair(text: str) -> tuple[float, float]:
    """`A:B`, or `A` for both."""
    try:
        return _ends(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a number A nor two of them, A:B.") from None


def _proportion(text: str) -> "tuple[float, float] | Ancestral":
    """`A:B`, or `A` for both, or the word `ancestral`."""
    if text == "ancestral":
        return "ancestral"
    try:
        return _ends(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a number A, nor two of them, A:B, nor ancestral.") from None


def _ends(text: str) -> tuple[float, float]:
    first, _, last = text.partition(":")
    return float(first), float(last if ":" in text else first)
