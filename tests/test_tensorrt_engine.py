"""An engine on a GPU, as far as it goes without one: bindings, profiles, memory, and every error in one line."""

from __future__ import annotations

import gc
import logging
from typing import Any

import numpy as np
import pytest

from fake_tensorrt import FakeDriver, engine_bytes, fake_library
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
    driver = FakeDriver(capacity=600)  # eight rows take 8 * (100 + 12 + 12) bytes, four take 496
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
