"""An engine on a GPU, as far as it goes without one: bindings, profiles, memory, and every error in one line."""

from __future__ import annotations

import gc
import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fake_tensorrt import PROFILES, FakeDriver, denoiser_bytes, engine_bytes, fake_library
from fakes import GRID, LABELS, VOCABULARY
from sundae_rt.errors import BackendError
from sundae_rt.tensorrt.engine import Engine, UnusableEngine

GUIDED = {"x": ["INT32", [-1, 3]], "guidance": ["FLOAT", [-1]], "guided": ["INT64", [1, -1]]}


def engine(driver: FakeDriver | None = None, **changes: Any) -> Engine:
    driver = driver or FakeDriver()
    return Engine(fake_library(driver), driver, engine_bytes(**changes), "denoiser (fp16)")


def batch(rows: int) -> np.ndarray:
    return np.arange(3 * rows, dtype=np.int32).reshape(rows, 3)


def test_it_tells_its_inputs_as_every_graph_does() -> None:
    assert engine().inputs == {"x": (3,)}
    assert engine(inputs=GUIDED).inputs == {"x": (3,), "guidance": ()}


@pytest.mark.parametrize("rows", [1, 2, 8, 9, 16, 21])
def test_any_number_of_rows_runs_and_more_than_a_profile_holds_runs_in_parts(rows: int) -> None:
    x = batch(rows)
    y = engine().run({"x": x})["y"]
    assert (y.dtype, y.shape) == (np.int32, x.shape)
    assert np.array_equal(y, 2 * x)


def test_fewer_rows_than_any_profile_takes_are_padded_and_cut_again() -> None:
    x = batch(3)
    assert np.array_equal(engine(profiles=[[4, 8, 8]]).run({"x": x})["y"], 2 * x)


def test_an_array_may_be_a_view() -> None:
    x = batch(8)[::-2]
    assert np.array_equal(engine().run({"x": x})["y"], 2 * x)


@pytest.mark.parametrize("guidance", [[1], [1, 1, 1], [2, 1, 3], [0] * 11])
def test_guided_rows_are_told_to_the_engine_also_in_parts_and_where_there_are_none(guidance: list[float]) -> None:
    values = np.array(guidance, np.float32)
    x = batch(len(values))
    y = engine(inputs=GUIDED).run({"x": x, "guidance": values})["y"]
    assert np.array_equal(y, 2 * x + 10 * (values != 1)[:, None])


def test_out_of_memory_means_smaller_batches_from_then_on_and_one_line(caplog: pytest.LogCaptureFixture) -> None:
    driver = FakeDriver(capacity=1000)  # eight rows take 8 * 100 bytes beside input and output, four take 4 * 100
    made = engine(driver)
    with caplog.at_level(logging.WARNING, "sundae_rt"):
        assert np.array_equal(made.run({"x": batch(21)})["y"], 2 * batch(21))
        assert np.array_equal(made.run({"x": batch(8)})["y"], 2 * batch(8))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("denoiser (fp16): Fake GPU has no room for ")
    assert line.endswith(": going on with batches of 4 instead of 8")


def test_no_memory_for_a_single_row_is_an_error_and_leaves_nothing_allocated() -> None:
    driver = FakeDriver(capacity=100)
    with pytest.raises(BackendError, match=r"^denoiser \(fp16\): out of GPU memory for a single image: Fake GPU"):
        engine(driver).run({"x": batch(4)})
    assert not driver.memory


def test_everything_goes_up_in_one_copy_and_comes_down_in_one() -> None:
    driver = FakeDriver()
    engine(driver, inputs=GUIDED).run({"x": batch(4), "guidance": np.full(4, 2, np.float32)})
    assert driver.calls == ["synchronize", "upload", "execute", "download", "synchronize"]  # the first: a new context


def test_where_the_library_captures_cuda_graphs_it_is_told_to() -> None:
    driver = FakeDriver()
    library = fake_library(driver, CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="capture"))
    made = Engine(library, driver, engine_bytes(), "denoiser (fp16)")
    assert np.array_equal(made.run({"x": batch(2)})["y"], 2 * batch(2))
    assert made._engine.settings.cuda_graph_strategy == "capture"
    assert made._engine.settings.memory == "ours"


def test_memory_is_kept_between_runs_and_given_back_with_the_engine() -> None:
    driver = FakeDriver()
    made = engine(driver)
    made.run({"x": batch(8)})
    held = set(driver.memory)
    made.run({"x": batch(3)})
    assert set(driver.memory) == held
    del made
    gc.collect()
    assert not driver.memory


# Several runs in a row


STEP = {"temperature": np.float32, "uniform": np.float32, "update": np.bool_}


def denoiser(driver: FakeDriver, **changes: Any) -> Engine:
    return Engine(fake_library(driver), driver, denoiser_bytes(labels=True, **changes), "denoiser (fp16)")


def denoiser_inputs(rows: int, count: int, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng, positions = np.random.default_rng(seed), GRID[0] * GRID[1]
    same = {
        "codes": rng.integers(0, VOCABULARY, (rows, positions), np.int32),
        "label": rng.integers(0, len(LABELS), rows, np.int32),
        "guidance": rng.choice(np.array([1, 2], np.float32), rows),
    }
    each = {
        "temperature": rng.random((count, rows), np.float32),
        "uniform": rng.random((count, rows, positions), np.float32),
        "update": rng.random((count, rows, positions)) < 0.5,
    }
    return same, each


def step_by_step(graph: Engine, same: dict[str, np.ndarray], each: dict[str, np.ndarray]) -> np.ndarray:
    """What `unroll` means."""
    proposals = []
    for step in range(len(each["update"])):
        outputs = graph.run({**same, **{entry: array[step] for entry, array in each.items()}})
        same = {**same, "codes": outputs["new_codes"]}
        proposals.append(outputs["proposal"])
    return np.stack(proposals)


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize(("rows", "profiles"), [(1, PROFILES), (8, PROFILES), (21, PROFILES), (3, [[4, 8, 8]])])
def test_runs_in_a_row_are_the_same_as_one_by_one(count: int, rows: int, profiles: list[list[int]]) -> None:
    same, each = denoiser_inputs(rows, count)
    graph = denoiser(FakeDriver(), profiles=profiles)
    proposals = graph.unroll(same, each, carry=("codes", "new_codes"), keep="proposal")
    assert (proposals.dtype, proposals.shape) == (np.int32, (count, rows, GRID[0] * GRID[1]))
    assert np.array_equal(proposals, step_by_step(graph, same, each))


def test_runs_in_a_row_cross_the_border_once_each_way_and_wait_once() -> None:
    driver = FakeDriver()
    same, each = denoiser_inputs(8, 5)
    denoiser(driver).unroll(same, each, carry=("codes", "new_codes"), keep="proposal")
    assert driver.calls[:2] == ["synchronize", "upload"]  # the first: a new context
    assert driver.calls[-2:] == ["download", "synchronize"]
    assert driver.calls[2:-2] == ["execute", "copy", *["copy", "copy", "execute", "copy"] * 4]


def test_runs_in_a_row_leave_every_tensor_where_it_is_which_a_captured_graph_needs() -> None:
    driver = FakeDriver()
    graph = denoiser(driver)
    places = []
    for count in (5, 3, 4):
        same, each = denoiser_inputs(8, count)
        graph.unroll(same, each, carry=("codes", "new_codes"), keep="proposal")
        (context,) = graph._contexts.values()
        places.append(dict(context.addresses))
    assert places[0] == places[1] == places[2]


def test_out_of_memory_in_a_row_means_smaller_batches(caplog: pytest.LogCaptureFixture) -> None:
    same, each = denoiser_inputs(8, 3)
    graph = denoiser(FakeDriver(capacity=60_000), work=10_000)  # bytes a row
    proposals = graph.unroll(same, each, carry=("codes", "new_codes"), keep="proposal")
    assert np.array_equal(proposals, step_by_step(denoiser(FakeDriver()), same, each))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith(": going on with batches of 4 instead of 8")


def test_a_run_that_fails_in_the_middle_of_a_row_is_one_line() -> None:
    same, each = denoiser_inputs(2, 5)
    with pytest.raises(BackendError, match=r"^denoiser \(fp16\): its engine failed: a kernel failed$"):
        denoiser(FakeDriver(), fails=3).unroll(same, each, carry=("codes", "new_codes"), keep="proposal")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"uniform": np.zeros((3, 2, 12), np.float32)}, r"takes inputs of as many steps each, one or more"),
        ({name: np.zeros((0, 2, 12), kind) for name, kind in STEP.items()}, r"as many steps each, one or more"),
        ({"uniform": np.zeros((2, 3, 12), np.float32)}, r"takes as many rows of each"),
        ({"update": np.zeros((2, 2, 12), np.int32)}, r"takes update bool \['N', 12\], not int32"),
    ],
)
def test_runs_that_do_not_fit_are_refused_before_the_gpu_sees_them(change: dict[str, Any], complaint: str) -> None:
    driver = FakeDriver()
    same, each = denoiser_inputs(2, 2)
    with pytest.raises(BackendError, match=complaint):
        denoiser(driver).unroll(same, {**each, **change}, carry=("codes", "new_codes"), keep="proposal")
    assert not driver.calls


# What is refused


@pytest.mark.parametrize(
    ("inputs", "complaint"),
    [
        ({}, r"takes x, not nothing"),
        ({"z": batch(1)}, r"takes x, not z"),
        ({"x": batch(0)}, r"as many rows of each, one or more, not x \[0, 3\]"),
        ({"x": batch(1)[0, 0]}, r"as many rows of each, one or more, not x \[\]"),
        ({"x": batch(2).astype(np.int64)}, r"takes x int32 \['N', 3\], not int64 \[2, 3\]"),
        ({"x": batch(2)[:, :2]}, r"takes x int32 \['N', 3\], not int32 \[2, 2\]"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_gpu_sees_it(inputs: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BackendError, match=rf"^denoiser \(fp16\) .*{complaint}"):
        engine().run(inputs)


def test_inputs_of_different_lengths_are_refused() -> None:
    with pytest.raises(BackendError, match=r"as many rows of each, one or more, not x \[2, 3\], guidance \[3\]"):
        engine(inputs=GUIDED).run({"x": batch(2), "guidance": np.ones(3, np.float32)})


def test_bytes_that_do_not_load_are_told_apart_with_the_librarys_reason() -> None:
    driver = FakeDriver()
    with pytest.raises(UnusableEngine, match=r"^denoiser: its engine does not load: deserialize: Error Code 1 \(bad"):
        Engine(fake_library(driver), driver, b"junk", "denoiser")


def test_a_type_that_numpy_lacks_is_refused() -> None:
    with pytest.raises(BackendError, match=r"has y as BF16, which NumPy does not know"):
        engine(outputs={"y": ["BF16", [-1, 3]]})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"fails": True}, "its engine failed: a kernel failed"),
        ({"starts": "no kernel image"}, "its engine does not start: no kernel image"),
        ({"starts": "Cuda: out of memory"}, "out of GPU memory for a single image: Fake GPU: Cuda: out of memory"),
    ],
)
def test_what_fails_on_the_gpu_is_one_line(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BackendError, match=rf"^denoiser \(fp16\): {complaint}$"):
        engine(**changes).run({"x": batch(4)})
