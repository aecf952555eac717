"""Quality against sampling steps: a bundle's pictures beside real ones, a curve for each policy.

``python -m benchmarks.steps --bundle earth --data runs/data`` samples with each policy in few steps and in many, with
the same seeds and so the same labels each time; the folder holds `heldout` and `train` as the recipe of `earth` makes
them. It prints tables, and writes the figures and a plot. The distances look through EfficientNet-Lite0 (see
`sundae_rt.training.frechet`): they compare with one another only, and only at equal counts. Needs the extras `train`
and `benchmarks`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

import sundae_rt
from benchmarks.looks import Looks
from sundae_rt.errors import SundaeError
from sundae_rt.schedule import MAX_STEPS, Settings
from sundae_rt.training.data import ImageFolder, image_side
from sundae_rt.training.features import efficientnet_lite0
from sundae_rt.training.frechet import batched, features_of, frechet_distance

RESULTS = Path(__file__).parent / "results" / "steps.json"
PLOT = Path(__file__).parents[1] / "docs" / "steps.svg"
STEPS = (2, 4, 8, 12, 20, 50, 100)
LOOKED_AT = 2048
"""Training pictures that contrast and glow are held against, if there are as many."""
LOSS = 0.05
"""How much a fast setting may lose against the most steps, of what their distance is above that of real pictures."""

_PLAIN: Settings = {"min_steps": 10, "stop": "proposal", "order": "uniform", "guidance": 1.0}

POLICIES: dict[str, Settings] = {
    "default": {},
    "paper": _PLAIN | {"temperature": 0.8, "proportion": 0.5, "stop": "published"},
    "linear": _PLAIN | {"temperature": (1.0, 0.7), "proportion": (1.0, 0.5)},
    "ancestral": _PLAIN | {"temperature": 0.9, "proportion": "ancestral"},
    "guided": {"guidance": 1.5},
}
"""What each curve samples with: `default` is the bundle's own schedule, `paper` that of the published runs of 256 x 256
faces. `guided` is the bundle's own too, at twice the time."""

STUDIED = ("default", "ancestral", "paper")
"""The policies that are measured unless others are named."""


@dataclass(frozen=True, slots=True)
class Point:
    """One policy at one number of steps.

    Attributes:
        steps: at most.
        taken: by the mean picture, which may stop by itself.
        heldout: Fréchet distance to pictures that training never saw.
        train: Fréchet distance to training pictures, which are what the model learned to draw.
        contrast: of the median picture, as a share of the median training picture's.
        glowing: pictures that are redder than 999 of 1,000 training pictures.
        seconds_per_image: decoding included.
    """

    steps: int
    taken: float
    heldout: float
    train: float
    contrast: float
    glowing: int
    seconds_per_image: float


class Judge:
    """Real pictures, and the network that sees how far others are from them; both are loaded once.

    Args:
        data: a folder with `heldout` and `train`, each with labels as subfolders.
        side: of the square pictures.
        count: pictures in each set.

    Raises:
        InputError: a folder holds too few pictures.
    """

    def __init__(self, data: Path, side: int, count: int) -> None:
        self._network = efficientnet_lite0()
        heldout = _drawn(data / "heldout", side, 2 * count)
        train = _drawn(data / "train", side, count, LOOKED_AT)
        self._looks = Looks(train)
        self._heldout_features = self._features(heldout[:count])
        self._train_features = self._features(train[:count])
        self.other_heldout = frechet_distance(self._features(heldout[count:]), self._heldout_features)
        """The distance between two draws of held-out pictures: the zero of the scale."""

    def point(self, pictures: NDArray[np.uint8], steps: int, taken: float, seconds: float) -> Point:
        """What is to be said of as many pictures, uint8 [N, H, W, 3]."""
        features = self._features(pictures)
        return Point(
            steps=steps,
            taken=round(taken, 2),
            heldout=round(frechet_distance(features, self._heldout_features), 1),
            train=round(frechet_distance(features, self._train_features), 1),
            contrast=round(self._looks.contrast_ratio(pictures), 3),
            glowing=self._looks.glowing(pictures),
            seconds_per_image=round(seconds, 4),
        )

    def _features(self, pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
        return features_of(self._network, batched(pictures))


@click.command()
@click.option("--bundle", default="earth", show_default=True)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="Folder with `heldout` and `train`.",
)
@click.option("--count", type=click.IntRange(2), default=1024, show_default=True, help="Pictures in each set.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the first picture of each set.")
@click.option(
    "--steps", "all_steps", type=click.IntRange(1, MAX_STEPS), multiple=True, default=STEPS, show_default=True
)
@click.option("--policy", "names", type=click.Choice(list(POLICIES)), multiple=True, default=STUDIED)
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Figures, as JSON.")
@click.option("--plot", type=click.Path(path_type=Path), default=PLOT, help="Picture of the curves: .svg or .png.")
def main(
    bundle: str,
    data: Path,
    count: int,
    seed: int,
    all_steps: Sequence[int],
    names: Sequence[str],
    results: Path,
    plot: Path,
) -> None:
    """Measure every policy at every number of steps."""
    curves: dict[str, list[Point]] = {name: [] for name in names}
    with sundae_rt.load(bundle, max_waiting=count) as runtime:
        try:
            judge = Judge(data, image_side(runtime.manifest), count)
        except SundaeError as error:
            raise click.ClickException(str(error)) from error
        click.echo(f"{count} pictures a set; other held-out pictures are at {judge.other_heldout:.1f}")
        runtime.generate()  # so that no point's time has the loading of graphs in it
        for name in names:
            for steps in sorted(all_steps):
                settings = _settings(name, steps)
                start = time.perf_counter()
                samples = runtime.generate(n=count, seed=seed, **settings)
                seconds = (time.perf_counter() - start) / count
                pictures = np.stack([np.asarray(sample.image) for sample in samples])
                taken = float(np.mean([sample.steps for sample in samples]))
                curves[name].append(judge.point(pictures, steps, taken, seconds))
                click.echo(f"{name}: {curves[name][-1]}")
        about = {
            "bundle": runtime.manifest.name,
            "backend": runtime.backend,
            "variant": runtime.variant,
            "schedules": {name: asdict(runtime.schedule(**_settings(name, max(all_steps)))) for name in names},
        }
    about |= {"pictures": count, "seed": seed, "other_heldout": round(judge.other_heldout, 1)}
    for name, points in curves.items():
        click.echo("\n".join(["", *_table(name, points, judge.other_heldout)]))
    about["curves"] = {name: [asdict(point) for point in points] for name, points in curves.items()}
    results.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    _draw(plot, curves)
    click.echo(f"\nwrote {results} and {plot}")


def _settings(name: str, steps: int) -> Settings:
    """A policy's settings at a number of steps, which its `min_steps` gives way to."""
    settings: Settings = POLICIES[name] | {"steps": steps}
    if "min_steps" in settings:
        settings["min_steps"] = min(settings["min_steps"] or 0, steps)
    return settings


def _drawn(folder: Path, side: int, count: int, wanted: int = 0) -> NDArray[np.uint8]:
    """`count` pictures of a folder, or as many of the `wanted` as there are, if that is more; none of them twice.

    Returns uint8 [N, side, side, 3].
    """
    images = ImageFolder(folder, side)
    return np.stack([images[index].numpy() for index in images.chosen(max(count, min(wanted, len(images))))])


def _table(name: str, points: Sequence[Point], zero: float) -> list[str]:
    """Markdown: every point beside the one of the most steps, and the fewest steps that are hardly worse.

    Distances of few pictures are large, also between real ones. What is lost counts from there (`zero`), so that it
    means the same for any number of pictures.
    """
    most = points[-1]
    losses = {point.steps: (point.heldout - most.heldout) / (most.heldout - zero) for point in points}
    fewest = next(steps for steps, loss in losses.items() if loss < LOSS)
    lines = [
        f"| steps, {name} | taken | to held-out crops | loss | to training crops | contrast | glowing |",
        "|---|---|---|---|---|---|---|",
    ]
    for point in points:
        figures = (f"{point.taken:.1f}", f"{point.heldout:.1f}", f"{100 * losses[point.steps]:+.1f} %")
        looks = (f"{point.train:.1f}", f"{point.contrast:.2f}", f"{point.glowing}")
        lines.append(f"| {' | '.join((str(point.steps), *figures, *looks))} |")
    return [*lines, "", f"{name}: the fewest steps that lose under {100 * LOSS:.0f} % against {most.steps}: {fewest}"]


def _draw(path: Path, curves: dict[str, list[Point]]) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for number, (name, points) in enumerate(curves.items()):
        steps = [point.steps for point in points]
        axes.plot(steps, [point.heldout for point in points], f"C{number}o-", label=f"{name}, to held-out crops")
        axes.plot(steps, [point.train for point in points], f"C{number}o:", label=f"{name}, to training crops")
    ticks = sorted({point.steps for points in curves.values() for point in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("steps")
    axes.set_ylabel("Fréchet distance, EfficientNet-Lite0")
    axes.legend()
    # Text as text keeps the file small; fixed names in it make the same figures the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "steps"}):
        figure.savefig(path, facecolor="white", metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
