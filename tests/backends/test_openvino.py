"""OpenVINO behind `openvino`: the same graphs, types and errors as everywhere, on exactly the cores it is given."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openvino", reason="the extra openvino is not installed")
pytest.importorskip("onnx", reason="the graphs of these tests are made with onnx")

from fakes import ALL_GRAPHS, entry, write_bundle
from sundae_rt.backends import open_backend, source
from sundae_rt.backends import openvino as openvino_backend
from sundae_rt.backends.openvino import OpenVinoBackend
from sundae_rt.backends.rows import run_side_by_side
from sundae_rt.backends.source import GraphSource
from sundae_rt.bundle import Bundle
from sundae_rt.choice import choose_variant
from sundae_rt.errors import BackendError
from tiny import model, model_with_weights_beside


def rows(count: int) -> np.ndarray:
    return np.arange(3 * count, dtype=np.int32).reshape(count, 3)


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> int:
    """As if this machine had three."""
    monkeypatch.setattr(openvino_backend, "available_cores", lambda: 3)
    return 3


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_rows_runs_on_any_number_of_threads(threads: int, cores: int) -> None:
    graph = OpenVinoBackend(threads).load(GraphSource(model(), "g"))
    assert graph.inputs == {"x": (3,)}
    for count in range(9):
        assert np.array_equal(graph.run({"x": rows(count)})["y"], 2 * rows(count))


def test_a_small_graph_runs_its_rows_side_by_side(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    parts = []

    def run(run: Any, inputs: Any, count: int) -> Any:
        parts.append((len(inputs["x"]), count))
        return run_side_by_side(run, inputs, count)

    monkeypatch.setattr(openvino_backend, "run_side_by_side", run)
    graph = OpenVinoBackend().load(GraphSource(model(), "g"))
    for count in (1, 2, 3, 8):
        graph.run({"x": rows(count)})
    assert parts == [(3, 3), (8, 3)]

    monkeypatch.setattr(source, "SMALL", 10)  # a large graph lies in memory once
    OpenVinoBackend().load(GraphSource(model(), "g")).run({"x": rows(8)})
    assert len(parts) == 2


def test_few_rows_get_all_cores_once_they_have_taken_as_long_as_compiling(
    monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    """By a clock that goes on by 1 each time it is asked: compiling takes 1, and so does a run of few rows."""
    streams = []
    compiled = openvino_backend.OpenVinoGraph._compiled

    def note(graph: Any, model: Any, count: int) -> Any:
        streams.append(count)
        return compiled(graph, model, count)

    now = iter(range(1000))
    monkeypatch.setattr(openvino_backend, "perf_counter", lambda: next(now))
    monkeypatch.setattr(openvino_backend.OpenVinoGraph, "_compiled", note)
    graph = OpenVinoBackend().load(GraphSource(model(), "g"))
    seen = []
    for count in (8, 1, 8, 1, 1, 8):
        graph.run({"x": rows(count)})
        seen.append(list(streams))
    assert seen == [[3], [3], [3], [3, 1], [3, 1], [3, 1]]


def test_a_graph_runs_in_several_threads_at_once() -> None:
    graph = OpenVinoBackend().load(GraphSource(model(), "g"))
    together = threading.Barrier(4, timeout=30)
    right = []

    def work(offset: int) -> None:
        together.wait()
        for count in range(1, 20):
            x = rows(count) + offset
            right.append(np.array_equal(graph.run({"x": x})["y"], 2 * x))

    threads = [threading.Thread(target=work, args=(1000 * at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(right) == 76 and all(right)


def test_outputs_are_the_callers_own() -> None:
    graph = OpenVinoBackend(1).load(GraphSource(model(), "g"))
    first = graph.run({"x": rows(2)})["y"]
    graph.run({"x": rows(2) + 5})
    assert np.array_equal(first, 2 * rows(2))


def test_an_array_may_be_a_view() -> None:
    x = np.arange(24, dtype=np.int32).reshape(4, 6)[::-2, ::2]
    assert np.array_equal(OpenVinoBackend(1).load(GraphSource(model(), "g")).run({"x": x})["y"], 2 * x)


def test_it_takes_no_more_threads_than_there_are_cores() -> None:
    from sundae_rt.backends.cores import available_cores

    backend = OpenVinoBackend(1000)
    assert backend.load(GraphSource(model(), "g"))._cores.count == available_cores()


@pytest.mark.parametrize("data", [b"", b"junk", model()[:20], model("NoSuchOperator")])
def test_what_is_no_graph_is_one_line(data: bytes) -> None:
    with pytest.raises(BackendError, match=r"^openvino: cannot load denoiser \(fp32\): .") as caught:
        OpenVinoBackend(1).load(GraphSource(data, "denoiser (fp32)"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({}, "it takes x, not nothing"),
        ({"z": rows(1)}, "it takes x, not z"),
        ({"x": rows(1).astype(float)}, "x is float64, not int32"),
        ({"x": np.zeros(3, np.int32)}, r"x \[3\] does not fit"),
        ({"x": np.zeros((1, 4), np.int32)}, r"x \[1, 4\] does not fit"),
        ({"x": np.zeros((), np.int32)}, r"x \[\] does not fit"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs: dict[str, np.ndarray], told: str) -> None:
    """OpenVINO itself would cast some of them, and crash on others."""
    graph = OpenVinoBackend(1).load(GraphSource(model(), "denoiser (fp32)"))
    with pytest.raises(BackendError, match=rf"^openvino: denoiser \(fp32\) failed: {told}"):
        graph.run(inputs)


def test_openvino_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendError, match=r"^openvino cannot be imported .*pip install 'sundae-rt\[openvino\]'$"):
        open_backend("openvino")


QUIET = """
import sys
import numpy as np
from sundae_rt.backends.openvino import OpenVinoBackend
from sundae_rt.backends.source import GraphSource
graph = OpenVinoBackend().load(GraphSource(bytes.fromhex(sys.stdin.read()), "g"))
print(graph.run({"x": np.zeros((4, 3), np.int32)})["y"].shape)
"""


def test_openvino_is_quiet() -> None:
    done = subprocess.run(
        [sys.executable, "-c", QUIET], input=model().hex(), capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("(4, 3)\n", "")


# Weights beside the graph


def test_weights_beside_the_graph_are_read_from_its_folder(tmp_path: Path) -> None:
    data = model_with_weights_beside("weights.bin")
    (tmp_path / "weights.bin").write_bytes(np.array([1, 2, 3], np.int32).tobytes())
    (tmp_path / "graph.onnx").write_bytes(data)
    graph = OpenVinoBackend(1).load(GraphSource(data, "g", tmp_path))
    assert graph.run({"x": rows(1)})["y"].tolist() == [[1, 3, 5]]


def test_a_folder_without_the_graph_itself_is_refused(tmp_path: Path) -> None:
    data = model_with_weights_beside("weights.bin")
    (tmp_path / "weights.bin").write_bytes(bytes(12))
    (tmp_path / "graph.onnx").write_bytes(data[:-1] + b"?")
    with pytest.raises(BackendError, match=r"^openvino: cannot load g: its file is not in "):
        OpenVinoBackend(1).load(GraphSource(data, "g", tmp_path))


# What it is there for


@pytest.mark.parametrize(
    ("flags", "fast_in_bf16", "variants"),
    [
        (set(), False, ()),
        ({"avx2", "avx512f"}, False, ()),
        ({"avx512_vnni"}, False, ("int8",)),
        ({"avx_vnni"}, False, ("int8",)),
        ({"avx512_vnni", "avx512_bf16"}, False, ("int8",)),
        ({"avx512_vnni", "avx512_bf16"}, True, ("int8-bf16", "bf16")),
        ({"amx_bf16"}, True, ("bf16",)),
    ],
)
def test_auto_takes_it_where_the_processor_is_fast_at_less_than_fp32(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], fast_in_bf16: bool, variants: tuple[str, ...]
) -> None:
    monkeypatch.setattr(openvino_backend, "instructions", lambda: frozenset(flags))
    monkeypatch.setattr(openvino_backend, "is_fast_in_bf16", lambda: fast_in_bf16)
    backend = OpenVinoBackend(1)
    if backend.derives or not fast_in_bf16:
        assert backend.variants == variants
    assert ("uint8" in backend.provides) is bool(flags & {"avx512_vnni", "avx_vnni"})


def test_a_graph_of_large_pictures_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = OpenVinoBackend(2)
    graphs = {side: backend.load(GraphSource(model(), "g", pixels=side * side)) for side in (256, 257)}
    assert [graph._apart is not None for graph in graphs.values()] == [backend._cores.count > 1, False]


def test_it_derives_bf16_of_fp32_where_the_bundles_own_bf16_is_for_gpus_alone(tmp_path: Path) -> None:
    backend = OpenVinoBackend(1)
    if "bf16" not in backend.derives:
        pytest.skip("OpenVINO knows no bf16 on this processor")
    graphs = {graph: {"fp32": entry(graph), "bf16": entry(graph, "half")} for graph in ALL_GRAPHS}
    manifest = Bundle.open(write_bundle(tmp_path, graphs=graphs)).manifest
    for graph in ALL_GRAPHS:
        chosen = choose_variant(manifest, graph, backend, "bf16")
        assert (chosen.name, chosen.source) == (("fp32" if graph == "encoder" else "bf16"), "fp32")
