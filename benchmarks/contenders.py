"""What is timed against what. Each contender makes images from noise: all steps, then the decoder.

Contenders run in processes of their own (`python -m benchmarks.contenders NAME ...`), which make one turn for each line
on stdin and answer with a line of JSON. So none sees another's threads or memory, and they can take turns.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sundae_rt
from sundae_rt.backends.driver import CudaDriver
from sundae_rt.manifest import Manifest

Make = Callable[[int, int], NDArray[np.uint8]]
"""(images, steps) -> uint8 [N,H,W,3]."""

Contender = tuple[Make, str]
"""What makes images, and what it makes them with: the precision, and where there is a choice the backend."""

Run = Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]
"""A graph: named arrays to named arrays."""


@dataclass(frozen=True, slots=True)
class Job:
    """What every contender gets: a preset with random weights (seed 0), as modules and as the bundle made of them.

    ``device`` is "cpu" or "cuda": where PyTorch runs, in fp32 there and in fp16 here.
    """

    preset: str
    bundle: Path
    batch_size: int
    threads: int
    device: str = "cpu"


def eager(job: Job) -> Contender:
    """This project's own PyTorch modules in a plain sampling loop."""
    return _pytorch(job, compiled=False), _precision(job)


def compiled(job: Job) -> Contender:
    """The same under `torch.compile`, on a GPU with CUDA graphs."""
    return _pytorch(job, compiled=True), _precision(job)


def onnx_runtime(job: Job) -> Contender:
    """ONNX Runtime as it comes, fp32, on the bundle's graphs, in a plain loop."""
    import onnxruntime

    def opened(name: str) -> Run:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = job.threads
        session = onnxruntime.InferenceSession(job.bundle / name, settings, providers=["CPUExecutionProvider"])
        outputs = [output.name for output in session.get_outputs()]
        return lambda inputs: dict(zip(outputs, session.run(outputs, inputs), strict=True))

    return _graphs(job, opened), "fp32"


def openvino(job: Job) -> Contender:
    """OpenVINO as it comes, which picks the precision, on the bundle's fp32 graphs, in a plain loop."""
    import openvino

    core = openvino.Core()
    precisions = []

    def opened(name: str) -> Run:
        model = core.compile_model(job.bundle / name, "CPU", {"INFERENCE_NUM_THREADS": job.threads})
        precisions.append(model.get_property("INFERENCE_PRECISION_HINT").get_type_name())
        # A tensor may bear other names beside its output's; all of them lead to it.
        return lambda inputs: {name: array for output, array in model(inputs).items() for name in output.names}

    make = _graphs(job, opened)
    return make, "/".join(dict.fromkeys(precisions))


def runtime(job: Job) -> Contender:
    """This project's runtime as it ships: on what `auto` takes."""
    return _runtime(job, "auto")


def runtime_onnx_runtime(job: Job) -> Contender:
    """The same with ONNX Runtime alone, as without the extra openvino."""
    return _runtime(job, "cpu")


def runtime_openvino(job: Job) -> Contender:
    """The same on OpenVINO."""
    return _runtime(job, "openvino")


def runtime_cuda(job: Job) -> Contender:
    """The same on ONNX Runtime with CUDA, in fp16."""
    return _runtime(job, "cuda", "fp16")


def runtime_tensorrt(job: Job) -> Contender:
    """The same on TensorRT, in fp16; it builds the engines that are not there."""
    return _runtime(job, "tensorrt", "fp16")


CONTENDERS: dict[str, Callable[[Job], Contender]] = {
    "eager": eager,
    "compile": compiled,
    "onnxruntime": onnx_runtime,
    "openvino": openvino,
    "runtime": runtime,
    "runtime-onnxruntime": runtime_onnx_runtime,
    "runtime-openvino": runtime_openvino,
    "runtime-cuda": runtime_cuda,
    "runtime-tensorrt": runtime_tensorrt,
}

CPU = ("eager", "compile", "onnxruntime", "openvino", "runtime", "runtime-onnxruntime")
"""Who takes part in the benchmark of CPUs."""


def _precision(job: Job) -> str:
    return "fp32" if job.device == "cpu" else "fp16"


def _runtime(job: Job, backend: str, variant: str = "auto") -> Contender:
    loaded = sundae_rt.load(
        job.bundle, backend=backend, variant=variant, threads=job.threads, batch_size=job.batch_size
    )

    def make(count: int, steps: int) -> NDArray[np.uint8]:
        # No image stops early: the contenders' loops know no stopping.
        samples = loaded.generate(count, steps=steps, min_steps=steps)
        return np.stack([np.asarray(sample.image) for sample in samples])

    return make, f"{loaded.backend}, {loaded.variant}"


def _pytorch(job: Job, compiled: bool) -> Make:
    import torch

    from sundae_rt.export.graphs import Decoder
    from sundae_rt.export.sources import from_preset

    if job.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("this PyTorch has no CUDA" if torch.version.cuda is None else "PyTorch sees no GPU")
    torch.set_num_threads(job.threads)
    sources = from_preset(job.preset)
    torch.set_default_device(job.device)
    assert sources.prior is not None and sources.vqgan is not None
    kind = {"device": job.device, "dtype": torch.float32 if job.device == "cpu" else torch.float16}
    prior, schedule = sources.prior.model.to(**kind), sources.prior.schedule
    decode = Decoder(sources.vqgan.model.to(**kind), sources.latent_grid)
    places, labels = sources.latent_grid[0] * sources.latent_grid[1], len(sources.prior.labels or ())
    if compiled:
        mode = "default" if job.device == "cpu" else "reduce-overhead"
        prior, decode = torch.compile(prior, mode=mode), torch.compile(decode, mode=mode)

    @torch.inference_mode()
    def make(count: int, steps: int) -> NDArray[np.uint8]:
        images = []
        for start in range(0, count, job.batch_size):
            rows = min(job.batch_size, count - start)
            codes = torch.randint(sources.vocabulary, (rows, places), dtype=torch.int32)
            label = torch.randint(labels, (rows,), dtype=torch.int32) if labels else None
            for step in range(steps):
                settings = schedule.with_changes(steps=steps, min_steps=steps)
                logits = prior(codes, label).float() / settings.temperature_at(step)
                proposal = torch.multinomial(torch.softmax(logits, -1).flatten(0, 1), 1).view_as(codes)
                written = torch.rand(codes.shape) < settings.proportion_at(step)
                codes = torch.where(written, proposal.int(), codes)
            images.append(decode(codes).cpu().numpy())
        return np.concatenate(images)

    return make


def _graphs(job: Job, opened: Callable[[str], Run]) -> Make:
    """A plain loop over the denoiser and the decoder of a bundle."""
    manifest = Manifest.from_json((job.bundle / "manifest.json").read_bytes())
    denoiser, decoder = (opened(manifest.graphs[name]["fp32"].file) for name in ("denoiser", "decoder"))
    places = manifest.latent_grid[0] * manifest.latent_grid[1]
    rng = np.random.default_rng(0)

    def make(count: int, steps: int) -> NDArray[np.uint8]:
        schedule = manifest.default_schedule.with_changes(steps=steps, min_steps=steps)
        images = []
        for start in range(0, count, job.batch_size):
            rows = min(job.batch_size, count - start)
            codes = rng.integers(0, manifest.vocabulary, (rows, places), dtype=np.int32)
            fixed = {}
            if manifest.labels is not None:
                label = rng.integers(0, len(manifest.labels), rows, dtype=np.int32)
                fixed = {"label": label, "guidance": np.ones(rows, np.float32)}
            for step in range(steps):
                inputs = {
                    "codes": codes,
                    "temperature": np.full(rows, schedule.temperature_at(step), np.float32),
                    "uniform": rng.random((rows, places), np.float32),
                    "update": rng.random((rows, places)) < schedule.proportion_at(step),
                    **fixed,
                }
                codes = denoiser(inputs)["new_codes"]
            images.append(decoder({"codes": codes})["images"])
        return np.concatenate(images)

    return make


def _peak_memory_mib(device: str) -> float:
    """The most memory that this process ever held; of a GPU's, what is taken of it now, by whomever.

    Nothing here gives a GPU's memory back between two images.
    """
    if device == "cuda":
        return round(CudaDriver().memory_in_use() / 2**20, 1)
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return round(int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024, 1)


def main() -> None:
    """Serve turns: a line `images steps` in, a line of JSON out."""
    name, preset, bundle, batch_size, threads, *device = sys.argv[1:]
    job = Job(preset, Path(bundle), int(batch_size), int(threads), *device)
    make, how = CONTENDERS[name](job)
    for line in sys.stdin:
        count, steps = map(int, line.split())
        start = time.perf_counter()
        images = make(count, steps)
        seconds = time.perf_counter() - start
        told = {"images": len(images), "seconds": seconds, "peak_memory_mib": _peak_memory_mib(job.device), "how": how}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
