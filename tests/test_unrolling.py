"""Several steps on the device at once: how many, and that an image comes out just as step by step."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fake_tensorrt import FakeDriver, denoiser_bytes, fake_library
from fakes import GRID, LABELS, VOCABULARY, FakeBackend, absorbing, fake_runtime, labelled, settle, wander
from sundae_rt import engines, noise
from sundae_rt.backends import UnrollingGraph, names, open_backend
from sundae_rt.backends.onnxruntime import OnnxRuntimeBackend, OnnxRuntimeDeviceGraph
from sundae_rt.backends.source import GraphSource
from sundae_rt.bundle import Bundle
from sundae_rt.errors import BackendError
from sundae_rt.families import FAMILIES, Absorbing, Step, Sundae
from sundae_rt.runtime import Runtime, Sample
from sundae_rt.schedule import Schedule
from sundae_rt.tensorrt.engine import Engine
from sundae_rt.unrolling import MOST, UNSURE, steps_at_once, updates

POSITIONS = GRID[0] * GRID[1]
PATIENCE = 30.0  # seconds before a test that hangs fails


# How many


@pytest.mark.parametrize(
    ("schedule", "taken", "count"),
    [
        (Schedule(steps=20, min_steps=10), 0, 10),  # up to where it may be finished for the first time
        (Schedule(steps=20, min_steps=10), 4, 6),
        (Schedule(steps=20, min_steps=10), 10, UNSURE),
        (Schedule(steps=20, min_steps=10), 8, UNSURE),
        (Schedule(steps=20, min_steps=10), 18, 2),  # never past its end
        (Schedule(steps=20, min_steps=10), 19, 1),
        (Schedule(steps=20, min_steps=6, stop="published"), 0, 7),
        (Schedule(steps=20, min_steps=20, stop="published"), 16, 4),
        (Schedule(steps=500, min_steps=500), 0, MOST),
        (Schedule(steps=20, min_steps=10, order="confidence"), 0, 1),
    ],
)
def test_as_many_steps_as_no_image_can_be_finished_within(schedule: Schedule, taken: int, count: int) -> None:
    assert steps_at_once(Sundae(VOCABULARY), [(schedule, taken)]) == count


def test_the_image_that_ends_first_bounds_the_batch_and_one_that_asks_the_model_bounds_it_to_one() -> None:
    long, short = Schedule(steps=20, min_steps=20), Schedule(steps=5, min_steps=5)
    assert steps_at_once(Sundae(VOCABULARY), [(long, 0), (short, 2), (long, 4)]) == 3
    assert steps_at_once(Sundae(VOCABULARY), [(long, 0), (Schedule(order="confidence"), 0)]) == 1


def test_absorbing_runs_to_its_end() -> None:
    assert steps_at_once(Absorbing(VOCABULARY), [(Schedule(steps=12), 3)]) == 9


@pytest.mark.parametrize("family", FAMILIES)
def test_where_steps_write_is_foreseen_rightly(family: str) -> None:
    rules, schedule = FAMILIES[family](VOCABULARY), Schedule(steps=6, proportion=(1.0, 0.2), min_steps=6)
    codes, editable = rules.start(3, POSITIONS), np.arange(POSITIONS) % 3 > 0
    draws = [noise.step(3, step, POSITIONS)[1] for step in range(6)]
    foreseen = updates(rules, Step(schedule, 0, codes, editable, draws[0]), draws)
    for step, draw in enumerate(draws):
        written = rules.written(Step(schedule, step, codes, editable, draw), np.zeros(POSITIONS, np.float32))
        assert foreseen[step].tolist() == written.tolist()
        codes = np.where(written, step, codes).astype(np.int32)
    assert 0 < foreseen.mean() < 1


# The same images


class FakeGpu(FakeBackend):
    """A fake backend whose denoiser is an engine on a fake GPU."""

    unrolls = True

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        self.driver = FakeDriver()
        self.changes = changes

    def load(self, source: GraphSource) -> Any:
        if not source.name.startswith("denoiser"):
            return super().load(source)
        data = denoiser_bytes(labels=b"with labels" in source.model, **self.changes)
        return Engine(fake_library(self.driver), self.driver, data, source.name)


def eventually(condition: Callable[[], bool]) -> None:
    """Let the other threads run until the condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()


def compared(samples: list[Sample]) -> list[tuple[int, int, list[int]]]:
    return [(sample.seed, sample.steps, sample.codes.ravel().tolist()) for sample in samples]


def both(folder: Path, model: str = "wandering", **options: Any) -> tuple[Runtime, Runtime, FakeGpu]:
    """A runtime that goes step by step, and one on a device that does not."""
    gpu = FakeGpu(model=model)
    propose = {"wandering": wander, "settling": settle}[model]
    host = fake_runtime(folder / "host", FakeBackend(propose), **options)
    return host, fake_runtime(folder / "device", gpu, **options), gpu


SETTINGS: list[dict[str, Any]] = [
    {},
    {"steps": 20, "min_steps": 20},
    {"steps": 40, "min_steps": 1},
    {"steps": 9, "min_steps": 5, "temperature": (1.0, 0.0), "proportion": (1.0, 0.1)},
    {"steps": 12, "min_steps": 0, "stop": "published", "proportion": 0.05},
    {"steps": 12, "min_steps": 12, "stop": "published"},
    {"steps": 1, "min_steps": 1},
    {"steps": 8, "order": "confidence"},
]


@pytest.mark.parametrize("model", ["wandering", "settling"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_an_image_is_the_same_to_the_bit_and_takes_as_many_steps(
    tmp_path: Path, settings: dict[str, Any], model: str
) -> None:
    host, device, _ = both(tmp_path, model, batch_size=4)
    assert compared(device.generate(7, seed=50, **settings)) == compared(host.generate(7, seed=50, **settings))


@pytest.mark.parametrize("model", ["wandering", "settling"])
def test_images_that_stop_by_themselves_do_so_at_the_same_step(tmp_path: Path, model: str) -> None:
    host, device, _ = both(tmp_path, model, batch_size=3)
    settings = {"steps": 30, "min_steps": 2, "proportion": 0.6}
    found = device.generate(12, **settings)
    assert compared(found) == compared(host.generate(12, **settings))
    assert (len({sample.steps for sample in found}) > 3) == (model == "settling")


def test_labels_and_guidance_reach_the_device(tmp_path: Path) -> None:
    host, device, _ = both(tmp_path, **labelled())
    for settings in ({}, {"guidance": 2.5}, {"label": LABELS[1], "guidance": 0.5}):
        assert compared(device.generate(5, **settings)) == compared(host.generate(5, **settings))


def test_the_other_family_too(tmp_path: Path) -> None:
    host, device, gpu = both(tmp_path, **absorbing())
    assert compared(device.generate(5, steps=9)) == compared(host.generate(5, steps=9))
    assert gpu.driver.calls.count("upload") == 2  # one to check the graph, and one for all nine steps


def test_inpainting_keeps_what_it_keeps(tmp_path: Path) -> None:
    host, device, _ = both(tmp_path, batch_size=3)
    rng = np.random.default_rng(0)
    image = host.decode(rng.integers(0, VOCABULARY, (1, *GRID), np.int32))[0]
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[:3, :5] = 255
    expected, found = (runtime.inpaint(image, mask, 5, seed=9, steps=11, min_steps=2) for runtime in (host, device))
    assert compared(found) == compared(expected)
    assert len({tuple(sample.codes.ravel()) for sample in found}) > 1
    for one, other in zip(expected, found, strict=True):
        assert np.array_equal(np.asarray(one.image), np.asarray(other.image))


def test_requests_that_come_and_go_share_the_device_and_change_nothing(tmp_path: Path) -> None:
    host, device, _ = both(tmp_path, batch_size=4, **labelled())
    asked = [
        {"n": 6, "seed": 0, "steps": 17, "min_steps": 9},
        {"n": 3, "seed": 40, "steps": 4, "min_steps": 1, "label": LABELS[0]},
        {"n": 5, "seed": 70, "steps": 9, "order": "confidence"},
        {"n": 4, "seed": 90, "steps": 30, "min_steps": 30, "guidance": 3.0},
    ]
    found: list[Any] = [None] * len(asked)

    def ask(at: int) -> None:
        found[at] = compared(device.generate(**asked[at]))

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(len(asked))]
    left = device.stream(50, seed=500, steps=25)
    next(left)
    for thread in threads:
        thread.start()
    left.close()
    for thread in threads:
        thread.join(PATIENCE)
    assert found == [compared(host.generate(**each)) for each in asked]


# What crosses the border


def test_a_chunk_of_steps_goes_up_once_and_comes_down_once(tmp_path: Path) -> None:
    _, device, gpu = both(tmp_path, batch_size=8)
    device.generate(8)  # loads and checks the graph
    gpu.driver.calls.clear()
    device.generate(8, steps=20, min_steps=20)
    crossings = [call for call in gpu.driver.calls if call not in ("copy", "execute")]
    assert crossings == ["upload", "download", "synchronize"] * 2  # of 16 steps and of 4
    assert gpu.driver.calls.count("execute") == 20


def test_whoever_waits_enters_as_soon_as_step_by_step(tmp_path: Path) -> None:
    _, device, gpu = both(tmp_path, batch_size=1)
    device.generate(1)
    gpu.driver.calls.clear()
    device.generate(3, steps=5, min_steps=5)
    assert gpu.driver.calls.count("execute") == 15  # no step beyond the end of a schedule
    assert gpu.driver.calls.count("upload") == 3


def test_a_step_that_depends_on_the_model_is_taken_alone(tmp_path: Path) -> None:
    _, device, gpu = both(tmp_path)
    device.generate(2)
    gpu.driver.calls.clear()
    device.generate(2, steps=6, order="confidence")
    assert gpu.driver.calls == ["upload", "execute", "download", "synchronize"] * 6


def test_an_error_in_the_middle_reaches_every_caller_and_the_pool_goes_on(tmp_path: Path) -> None:
    gpu = FakeGpu(fails=4)
    device = fake_runtime(tmp_path, gpu, batch_size=8)
    device.generate(1, steps=1)
    gpu.driver.calls.clear()
    caught: list[str] = []
    gpu.driver.before_execute = lambda: eventually(lambda: len(device._pool._requests) == 3)

    def ask(seed: int) -> None:
        try:
            device.generate(4, seed=seed, steps=8, min_steps=8)
        except BackendError as error:
            caught.append(str(error))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert gpu.driver.calls.count("execute") == 4
    gpu.driver.before_execute = lambda: None
    assert caught == ["denoiser (fp32): its engine failed: a kernel failed"] * 3
    assert len(device.generate(4, steps=8)) == 4


# ONNX Runtime's own way, on the one device that is always there


def test_backends_that_say_so_unroll_and_others_do_not() -> None:
    for name in names():
        try:
            backend = open_backend(name)
        except BackendError:
            continue
        bundle = Bundle.open(engines.resolve(engines.DEFAULT))
        with bundle.weights("denoiser", "fp32") as folder:
            graph = backend.load(GraphSource(bundle.read("denoiser", "fp32"), "denoiser (fp32)", folder))
        assert isinstance(graph, UnrollingGraph) == backend.unrolls


@pytest.fixture(scope="module")
def on_device() -> OnnxRuntimeDeviceGraph:
    """The denoiser of the bundle that ships, bound to a device's memory: the CPU's."""
    import onnxruntime

    bundle = Bundle.open(engines.resolve(engines.DEFAULT))
    with bundle.weights("denoiser", "fp32") as folder:
        graph = OnnxRuntimeBackend.cpu(1).load(GraphSource(bundle.read("denoiser", "fp32"), "denoiser (fp32)", folder))
    return OnnxRuntimeDeviceGraph(onnxruntime, graph._session, "cuda: denoiser (fp32)", "cpu")


def earth_inputs(rows: int, count: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    manifest = Bundle.open(engines.resolve(engines.DEFAULT)).manifest
    positions = manifest.latent_grid[0] * manifest.latent_grid[1]
    same = {
        "codes": rng.integers(0, manifest.vocabulary, (rows, positions), np.int32),
        "label": np.zeros(rows, np.int32),
        "guidance": np.array([1.0, 2.0, 1.0][:rows], np.float32),
    }
    each = {
        "temperature": np.linspace(1, 0, count, dtype=np.float32)[:, None].repeat(rows, 1),
        "uniform": rng.random((count, rows, positions), np.float32),
        "update": rng.random((count, rows, positions)) < 0.7,
    }
    return same, each


@pytest.mark.parametrize("count", [1, 4])
def test_onnx_runtime_in_a_row_is_the_same_as_one_by_one(on_device: OnnxRuntimeDeviceGraph, count: int) -> None:
    same, each = earth_inputs(3, count)
    proposals = on_device.unroll(same, each, carry=("codes", "new_codes"), keep="proposal")
    held: Mapping[str, np.ndarray] = same
    for step in range(count):
        outputs = on_device.run({**held, **{name: array[step] for name, array in each.items()}})
        assert np.array_equal(proposals[step], outputs["proposal"])
        held = {**same, "codes": outputs["new_codes"]}


def test_what_onnx_runtime_refuses_in_a_row_is_one_line(on_device: OnnxRuntimeDeviceGraph) -> None:
    same, each = earth_inputs(2, 2)
    each["uniform"] = each["uniform"][:, :, :-1].copy()
    with pytest.raises(BackendError, match=r"^cuda: denoiser \(fp32\) failed: ") as caught:
        on_device.unroll(same, each, carry=("codes", "new_codes"), keep="proposal")
    assert "\n" not in str(caught.value)
