"""Quality against sampling steps: Fréchet distances of a bundle's pictures to real ones, a curve for each policy.

``python -m benchmarks.steps --bundle earth --data runs/data/heldout`` samples with every policy in few steps and many,
the same seeds each time, prints a table, and writes it with a plot to `benchmarks/results/`. The distances look through
EfficientNet-Lite0 (see `sundae_rt.training.frechet`); they compare with one another only. Needs the extra train, and
matplotlib for the plot.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import sundae_rt
from sundae_rt.schedule import MAX_STEPS, Settings
from sundae_rt.training.data import ImageFolder
from sundae_rt.training.features import EfficientNetLite0, efficientnet_lite0
from sundae_rt.training.frechet import batched, features_of, frechet_distance

RESULTS = Path(__file__).parent / "results"
STEPS = (2, 4, 8, 12, 20, 50, 100)

POLICIES: dict[str, Settings] = {
    "paper": {"temperature": 0.8, "proportion": 0.5},
    "default": {},
    "all at once": {"temperature": (1.0, 0.7), "proportion": 1.0},
    "late cooling": {"temperature": (1.0, 0.3), "proportion": (1.0, 0.5)},
    "least confident": {"temperature": (1.0, 0.7), "proportion": (1.0, 0.2), "order": "confidence"},
    "greedy end": {"temperature": (1.0, 0.0), "proportion": (1.0, 0.5)},
}
"""What each curve samples with; what is left out is as in the bundle's default schedule."""


@click.command()
@click.option("--bundle", default="earth", show_default=True)
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True, help="Real pictures."
)
@click.option("--count", type=click.IntRange(2), default=1024, show_default=True, help="Pictures in each set.")
@click.option(
    "--steps", "all_steps", type=click.IntRange(1, MAX_STEPS), multiple=True, default=STEPS, show_default=True
)
@click.option("--policy", "names", type=click.Choice(list(POLICIES)), multiple=True, default=tuple(POLICIES))
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(bundle: str, data: Path, count: int, all_steps: Sequence[int], names: Sequence[str], results: Path) -> None:
    """Measure every policy at every number of steps."""
    network = efficientnet_lite0()
    curves: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with sundae_rt.load(bundle, max_waiting=count) as runtime:
        real = _real(network, data, runtime, count)
        zero = frechet_distance(real[count:], real[:count])
        click.echo(f"{count} pictures a set; other real pictures are at {zero:.1f}")
        for name in names:
            for steps in sorted(all_steps):
                start = time.perf_counter()
                pictures, taken = _samples(runtime, count, POLICIES[name] | {"steps": steps})
                seconds = (time.perf_counter() - start) / count
                distance = frechet_distance(features_of(network, batched(pictures)), real[:count])
                curves[name].append(
                    {
                        "steps": steps,
                        "taken": taken,
                        "frechet": round(distance, 1),
                        "seconds_per_image": round(seconds, 4),
                    }
                )
                click.echo(f"{name}, {steps} steps ({taken:.1f} taken): {distance:.1f}, {seconds:.3f} s an image")
        about = {"bundle": runtime.manifest.name, "backend": runtime.backend, "variant": runtime.variant}
    results.mkdir(parents=True, exist_ok=True)
    values = {**about, "pictures": count, "other_real_pictures": round(zero, 1), "policies": POLICIES, "curves": curves}
    (results / "steps.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    _plot(results / "steps.svg", curves)
    click.echo(f"wrote {results / 'steps.json'} and {results / 'steps.svg'}")


def _real(network: EfficientNetLite0, data: Path, runtime: sundae_rt.Runtime, count: int) -> NDArray[np.float64]:
    """Features of twice `count` real pictures, drawn without repetition."""
    height, width = runtime.manifest.image_size or (0, 0)
    if height != width:
        raise click.ClickException(f"the bundle makes pictures of {height}x{width}: square pictures are measured")
    images = ImageFolder(data, height)
    if len(images) < 2 * count:
        raise click.ClickException(f"{data} holds {len(images)} pictures: --count {count} needs {2 * count}")
    drawn = np.random.default_rng(0).permutation(len(images))[: 2 * count]
    return features_of(network, batched(images[int(index)].numpy() for index in drawn))


def _samples(runtime: sundae_rt.Runtime, count: int, settings: Settings) -> tuple[NDArray[np.uint8], float]:
    """Pictures of the seeds 0 to count - 1, uint8 `[N, H, W, 3]`, and the mean of the steps that they took."""
    samples = runtime.generate(n=count, seed=0, **settings)
    return np.stack([np.asarray(sample.image) for sample in samples]), float(np.mean([each.steps for each in samples]))


def _plot(path: Path, curves: dict[str, list[dict[str, Any]]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        axes.plot([point["steps"] for point in points], [point["frechet"] for point in points], marker="o", label=name)
    ticks = sorted({point["steps"] for points in curves.values() for point in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("steps")
    axes.set_ylabel("Fréchet distance, EfficientNet-Lite0")
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
