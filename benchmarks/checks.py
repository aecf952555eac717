"""Whether a backend is right: the same seeds beside the CPU in fp32, and beside itself.

``python -m benchmarks.checks reference BUNDLE FILE STEPS THREADS`` keeps what the backend `cpu` makes in fp32; with a
backend's name in the place of `reference` each of its variants is judged by that file, in a line of JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import sundae_rt
from sundae_rt import noise
from sundae_rt.backends import open_backend
from sundae_rt.bundle import Bundle
from sundae_rt.choice import runnable
from sundae_rt.errors import BackendError, SundaeError
from sundae_rt.runtime import Runtime

IMAGES: Final = 4
SEED: Final = 100
BATCHES: Final = (1, 3, IMAGES)

LEAST: Final = {"fp32": (0.99, 45.0), "fp16": (0.9, 30.0), "bf16": (0.6, 20.0)}
"""By variant the share of equal codes after one step, and the PSNR in dB of equal codes' pictures, that are right.

What is at fault is far below: of codes that have nothing to do with one another next to none are equal. Rounding alone
changes codes that are almost equally probable, as random weights make many. For other variants both are only told.
"""


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found of a variant, or why nothing was.

    Attributes:
        equal: share of codes that are those of the reference after each step at temperature 0, by the same seeds.
        psnr: of the pictures of the reference's codes beside the reference's pictures, in dB; None where all are equal.
        batches: whether the sampler's images are the same in all sizes of batch.
        loop: whether its images are those of a plain loop of single steps.
        faults: what of these is not right, each a line.
        missing: why the backend, or the variant, was not run.
        is_absent: whether that is because it is not here.
    """

    backend: str
    variant: str = ""
    equal: tuple[float, ...] = ()
    psnr: float | None = None
    batches: bool = False
    loop: bool = False
    faults: tuple[str, ...] = ()
    missing: str | None = None
    is_absent: bool = False


def steps_of(runtime: Runtime, steps: int) -> NDArray[np.int32]:
    """Codes after each step at temperature 0, in a plain loop of single steps: int32 [steps,N,h,w]."""
    grid, schedule = runtime.manifest.latent_grid, runtime.schedule(**_settings(steps))
    seeds, positions = range(SEED, SEED + IMAGES), grid[0] * grid[1]
    codes = np.stack([noise.initial_codes(seed, positions, runtime.manifest.vocabulary) for seed in seeds])
    codes, found = codes.reshape(IMAGES, *grid), []
    for step in range(steps):
        draws = np.array([noise.step(seed, step, positions) for seed in seeds]).reshape(IMAGES, 2, *grid)
        update = draws[:, 1] < np.float32(schedule.proportion_at(step))
        codes, _, _ = runtime.denoise(codes, 0.0, draws[:, 0], update, **_conditions(runtime))
        found.append(codes)
    return np.stack(found)


def judged(runtime: Runtime, open_with: Callable[[int], Runtime], reference: dict[str, NDArray[Any]]) -> Findings:
    """What is found of a variant; `open_with` opens the same with another size of batch."""
    expected, pictures = reference["codes"], reference["pictures"]
    steps = len(expected)
    codes = steps_of(runtime, steps)
    equal = tuple(round(float((one == other).mean()), 4) for one, other in zip(codes, expected, strict=True))
    psnr = _psnr(runtime.decode(expected[-1]), pictures)
    sampled = []
    for batch in BATCHES:
        with open_with(batch) as other:
            samples = other.generate(IMAGES, seed=SEED, **_settings(steps), **_conditions(other))
            sampled.append(np.stack([sample.codes for sample in samples]))
    batches = all(np.array_equal(one, sampled[-1]) for one in sampled)
    loop = np.array_equal(sampled[-1], codes[-1])
    share, ratio = LEAST.get(runtime.variant, (0.0, 0.0))
    faults = (
        *([f"{equal[0]:.1%} of codes equal after one step, less than {share:.0%}"] if equal[0] < share else ()),
        *([f"pictures at {psnr:.1f} dB, less than {ratio:.0f}"] if psnr is not None and psnr < ratio else ()),
        *(() if batches else ("images depend on the size of the batch",)),
        *(() if loop else ("the sampler's images are not those of single steps",)),
    )
    return Findings(runtime.backend, runtime.variant, equal, psnr, batches, loop, faults)


def all_of(name: str, path: Path, reference: dict[str, NDArray[Any]], threads: int) -> Iterator[Findings]:
    """What is found of each variant that a backend can run."""
    bundle = Bundle.open(path)
    try:
        backend = open_backend(name, threads)
    except BackendError as error:
        yield Findings(name, missing=str(error), is_absent=True)
        return
    for variant in runnable(bundle.manifest, backend):

        def open_with(batch: int, variant: str = variant) -> Runtime:
            return Runtime(bundle, backend, variant=variant, batch_size=batch)

        try:
            with open_with(IMAGES) as runtime:
                yield judged(runtime, open_with, reference)
        except SundaeError as error:
            yield Findings(name, variant, missing=str(error), faults=(str(error),))


def _settings(steps: int) -> Any:
    return {"steps": steps, "min_steps": steps, "temperature": 0.0, "order": "uniform"}


def _conditions(runtime: Runtime) -> Any:
    """The first label without guidance, where the bundle has labels."""
    return {} if runtime.manifest.labels is None else {"label": 0, "guidance": 1.0}


def _psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float | None:
    error = float(np.square(one.astype(np.float64) - other).mean())
    return None if error == 0 else round(10 * float(np.log10(255**2 / error)), 1)


def main() -> None:
    """See above."""
    name, path, file, steps, threads = sys.argv[1:]
    if name == "reference":
        with sundae_rt.load(path, backend="cpu", variant="fp32", threads=int(threads)) as runtime:
            codes = steps_of(runtime, int(steps))
            np.savez(file, codes=codes, pictures=runtime.decode(codes[-1]))
        return
    with np.load(file, allow_pickle=False) as arrays:
        reference = dict(arrays)
    for findings in all_of(name, Path(path), reference, int(threads)):
        print(json.dumps(asdict(findings)), flush=True)


if __name__ == "__main__":
    main()
