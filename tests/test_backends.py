"""Backends by name, ONNX Runtime behind `cpu` and `cuda`, and the cores that a process may use."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import types
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sundae_rt.backends import installation, open_backend, source
from sundae_rt.backends import onnxruntime as onnxruntime_backend
from sundae_rt.backends.cores import available_cores
from sundae_rt.backends.onnxruntime import OnnxRuntimeBackend
from sundae_rt.backends.rows import run_side_by_side
from sundae_rt.backends.source import GraphSource
from sundae_rt.errors import BackendError, InputError

pytest.importorskip("onnx", reason="the graphs of these tests are made with onnx")

from tiny import model, model_with_weights_beside

# By name


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(InputError, match=r"^backend must be one of tensorrt, cuda, openvino, cpu, not 'tpu'$"):
        open_backend("tpu")
    with pytest.raises(InputError, match=r"^backend must be one of tensorrt, .*, cpu, not \['cpu'\]$"):
        open_backend(["cpu"])  # type: ignore[arg-type]


# ONNX Runtime


def test_a_graph_runs() -> None:
    graph = OnnxRuntimeBackend.cpu(threads=1).load(GraphSource(model(), "g"))
    for rows in (1, 4):
        x = np.arange(3 * rows, dtype=np.int32).reshape(rows, 3)
        assert np.array_equal(graph.run({"x": x})["y"], 2 * x)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_rows_runs_on_any_number_of_threads(threads: int) -> None:
    graph = OnnxRuntimeBackend.cpu(threads).load(GraphSource(model(), "g"))
    for rows in range(9):
        x = np.arange(3 * rows, dtype=np.int32).reshape(rows, 3)
        assert np.array_equal(graph.run({"x": x})["y"], 2 * x)


def test_a_small_graph_runs_its_rows_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = []

    def run(run: Any, inputs: Any, count: int) -> Any:
        parts.append((len(inputs["x"]), count))
        return run_side_by_side(run, inputs, count)

    monkeypatch.setattr(onnxruntime_backend, "run_side_by_side", run)
    graph = OnnxRuntimeBackend.cpu(threads=3).load(GraphSource(model(), "g"))
    for rows in (1, 2, 3, 8):
        graph.run({"x": np.zeros((rows, 3), np.int32)})
    assert parts == [(3, 3), (8, 3)]

    monkeypatch.setattr(source, "SMALL", 10)  # a large graph lies in memory once
    OnnxRuntimeBackend.cpu(threads=3).load(GraphSource(model(), "g")).run({"x": np.zeros((8, 3), np.int32)})
    assert len(parts) == 2


def test_a_large_graph_gives_back_what_a_run_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """A denoiser's memory is not there still while the decoder works. Small ones keep it for their next run."""
    backend = OnnxRuntimeBackend.cpu(threads=1)
    assert backend.load(GraphSource(model(), "g"))._options is None
    monkeypatch.setattr(source, "SMALL", 10)
    graph = backend.load(GraphSource(model(), "g"))
    assert graph._options.get_run_config_entry("memory.enable_memory_arena_shrinkage") == "cpu:0"
    assert graph.run({"x": np.ones((2, 3), np.int32)})["y"].tolist() == [[2, 2, 2]] * 2


@pytest.mark.parametrize(("side", "twice", "keeps"), [(128, True, True), (256, True, False), (257, False, False)])
def test_how_large_its_pictures_are_decides_too(side: int, twice: bool, keeps: bool) -> None:
    """Of a few weights a decoder makes megapixels, which take gigabytes."""
    graph = OnnxRuntimeBackend.cpu(threads=2).load(GraphSource(model(), "g", pixels=side * side))
    assert (graph._lone is not None) is twice
    assert (graph._options is None) is keeps


def test_rows_side_by_side_come_back_in_order() -> None:
    together = threading.Barrier(3, timeout=30)  # all parts are under way at once
    sizes = []

    def run(part: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        together.wait()
        sizes.append(len(part["x"]))
        return [part["x"] + part["y"], part["x"] > 3]

    x = np.arange(8)
    sums, large = run_side_by_side(run, {"x": x, "y": 10 * x}, 3)
    assert np.array_equal(sums, 11 * x)
    assert np.array_equal(large, x > 3)
    assert sorted(sizes) == [2, 3, 3]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_part_that_fails_fails_the_run_once_all_have_ended(failing: int) -> None:
    ended = []

    def run(part: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        ended.append(int(part["x"][0]))
        if part["x"][0] == failing:
            raise ValueError(f"part {failing}")
        return [part["x"]]

    with pytest.raises(ValueError, match=rf"^part {failing}$"):
        run_side_by_side(run, {"x": np.arange(3)}, 3)
    assert sorted(ended) == [0, 1, 2]


def test_a_thread_that_cannot_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(BackendError, match=r"^cannot start a thread: can't start new thread$"):
        run_side_by_side(lambda part: [], {"x": np.arange(2)}, 2)


def test_an_array_may_be_a_view() -> None:
    x = np.arange(24, dtype=np.int32).reshape(4, 6)[::-2, ::2]
    assert np.array_equal(OnnxRuntimeBackend.cpu(threads=1).load(GraphSource(model(), "g")).run({"x": x})["y"], 2 * x)


@pytest.mark.parametrize("data", [b"", b"junk", model()[:20], model("NoSuchOperator")])
def test_what_is_no_graph_is_one_line(data: bytes) -> None:
    with pytest.raises(BackendError, match=r"^cpu: cannot load denoiser \(fp32\): ") as caught:
        OnnxRuntimeBackend.cpu().load(GraphSource(data, "denoiser (fp32)"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "inputs", [{}, {"z": np.zeros((1, 3), np.int32)}, {"x": np.zeros((1, 3))}, {"x": np.zeros(3, np.int32)}]
)
def test_a_run_that_fails_is_one_line(inputs: dict[str, np.ndarray]) -> None:
    graph = OnnxRuntimeBackend.cpu().load(GraphSource(model(), "denoiser (fp32)"))
    with pytest.raises(BackendError, match=r"^cpu: denoiser \(fp32\) failed: ") as caught:
        graph.run(inputs)
    assert "\n" not in str(caught.value)


def test_cuda_without_cuda_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(installation, "installed", lambda: ["onnxruntime"])
    with pytest.raises(BackendError, match=r"^cuda: .* without CUDAExecutionProvider: ") as caught:
        open_backend("cuda")
    assert str(caught.value).endswith("pip uninstall -y onnxruntime, then pip install onnxruntime-gpu")
    monkeypatch.setattr(installation, "installed", lambda: ["onnxruntime", "onnxruntime-gpu"])
    with pytest.raises(BackendError, match=r"^cuda: .*: onnxruntime and onnxruntime-gpu are both installed"):
        open_backend("cuda")


@pytest.fixture
def cuda_compiled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])


@pytest.mark.usefixtures("cuda_compiled_in")
def test_cuda_that_is_compiled_in_but_does_not_start_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> None:
        raise BackendError("this machine has no NVIDIA driver: install it")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        monkeypatch.setattr(onnxruntime_backend, "load_library", no_driver)
        with pytest.raises(BackendError, match=r"^cuda: CUDAExecutionProvider does not start: .* no NVIDIA driver"):
            open_backend("cuda")
        # With a driver, it is the provider's own library that does not load: this ONNX Runtime has none.
        monkeypatch.setattr(onnxruntime_backend, "load_library", lambda: None)
        with pytest.raises(BackendError, match=r"a library that it needs is missing \(.*providers_cuda.*\[cuda"):
            open_backend("cuda")


@pytest.mark.usefixtures("cuda_compiled_in")
def test_a_graph_that_falls_back_to_the_cpu_in_silence_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime hands out a session on the CPU where CUDA does not start, unless it is told not to."""
    monkeypatch.setattr(onnxruntime_backend, "load_library", lambda: None)
    monkeypatch.setattr(OnnxRuntimeBackend, "_check_cuda", lambda self: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(BackendError, match=r"^cuda: CUDAExecutionProvider does not start: "):
            OnnxRuntimeBackend.cuda().load(GraphSource(model(), "g"))


def test_work_that_a_gpu_leaves_to_the_cpu_is_refused_and_shapes_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    class Halfway(onnxruntime.InferenceSession):
        """A session that says of itself that it has CUDA, and that everything of it runs on the CPU."""

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    if not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"):
        pytest.skip("this ONNX Runtime does not tell what runs where")
    monkeypatch.setattr(OnnxRuntimeBackend, "_check_cuda", lambda self: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Halfway)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        OnnxRuntimeBackend.cuda().load(GraphSource(model(), "g"))  # an Add may be arithmetic on shapes
        monkeypatch.setattr(onnxruntime_backend, "_WORK", {"Add"})
        with pytest.raises(BackendError, match=r"^cuda: CUDAExecutionProvider does not run all of g: it leaves Add to"):
            OnnxRuntimeBackend.cuda().load(GraphSource(model(), "g"))


# The installed ONNX Runtime


@pytest.mark.parametrize(
    ("packages", "library", "fault"),
    [
        (["onnxruntime"], "whole", None),
        (["onnxruntime-gpu"], "whole", None),
        ([], "whole", r"^ONNX Runtime is not installed: pip install onnxruntime, or onnxruntime-gpu for"),
        (
            ["onnxruntime", "onnxruntime-gpu"],
            "whole",
            r"both installed .*uninstall -y onnxruntime onnxruntime-gpu,",
        ),
        (["onnxruntime-gpu"], "empty", r"files are gone.*pip install --force-reinstall --no-deps onnxruntime-gpu$"),
        (["onnxruntime"], None, r"files are gone.*pip install --force-reinstall --no-deps onnxruntime$"),
    ],
)
def test_a_doubled_or_emptied_install_is_recognised(
    packages: list[str], library: str | None, fault: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name not in packages:
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    if library != "whole":  # an empty folder is imported as a package without anything in it
        monkeypatch.setitem(sys.modules, "onnxruntime", library and types.ModuleType("onnxruntime"))
    found = installation.fault()
    assert found is None if fault is None else re.search(fault, str(found))


def test_an_emptied_onnx_runtime_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    monkeypatch.setattr(installation, "installed", lambda: ["onnxruntime"])
    with pytest.raises(BackendError, match=r"^cpu: onnxruntime is installed but its files are gone"):
        open_backend("cpu")


def test_onnx_runtime_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(installation, "installed", lambda: [])
    with pytest.raises(BackendError, match=r"^cpu: ONNX Runtime cannot be imported .*pip install .*onnxruntime"):
        open_backend("cpu")


NOISY = """
import sys
from sundae_rt.backends.onnxruntime import OnnxRuntimeBackend
from sundae_rt.backends.source import GraphSource
import numpy as np
from sundae_rt.errors import BackendError
backend = OnnxRuntimeBackend.cpu()
data = bytes.fromhex(sys.stdin.read())
graph = backend.load(GraphSource(data, "g"))
for shape in ((2, 2), (2,)):
    try:
        print(graph.run({"x": np.zeros(shape, np.int32)})["y"].shape)
    except BackendError:
        print("refused")
"""


def test_onnx_runtime_is_quiet() -> None:
    data = model(shape=("B", "T"))
    done = subprocess.run([sys.executable, "-c", NOISY], input=data.hex(), capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["(2, 2)", "refused"]
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["cpu", "openvino"])
@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "absolute"])
def test_a_graph_may_not_read_weights_from_another_file(
    location: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what the bundle's hash covers is ever read: not even a file in the working folder."""
    (tmp_path / "inside").mkdir()
    for folder in (tmp_path, tmp_path / "inside"):
        (folder / "weights.bin").write_bytes(bytes(12))
    monkeypatch.chdir(tmp_path / "inside")
    data = model_with_weights_beside(str(tmp_path / "weights.bin") if location == "absolute" else location)
    if name == "openvino":
        pytest.importorskip("openvino", reason="the extra openvino is not installed")
    with pytest.raises(BackendError, match=rf"^{name}: cannot load g: "):
        open_backend(name, 1).load(GraphSource(data, "g"))


# Cores


def cgroup(tmp_path: Path, own: str, limits: dict[str, str]) -> dict[str, Path]:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(f"1:name=systemd:/x\n0::{own}\n")
    for folder, limit in limits.items():
        (tmp_path / "fs" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / folder / "cpu.max").write_text(f"{limit}\n")
    return {"proc": tmp_path / "proc", "cgroup": tmp_path / "fs"}


@pytest.mark.parametrize(
    ("own", "limits", "cores"),
    [
        ("/", {}, 8),
        ("/", {".": "max 100000"}, 8),
        ("/", {".": "200000 100000"}, 2),
        ("/a/b", {".": "max 100000", "a": "350000 100000", "a/b": "max 100000"}, 3),
        ("/a/b", {"a": "300000 100000", "a/b": "50000 100000"}, 1),
        ("/", {".": "6400000 100000"}, 8),
        ("/", {".": "not numbers"}, 8),
    ],
)
def test_cores_are_those_that_the_process_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, limits: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert available_cores(**cgroup(tmp_path, own, limits)) == cores


def test_without_cgroups_the_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    assert available_cores(tmp_path / "proc", tmp_path / "fs") == 3
