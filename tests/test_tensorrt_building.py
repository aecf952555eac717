"""Engines are really built, without a GPU, by TensorRT for RTX; what is not built is said in one line."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sundae_rt import engines
from sundae_rt.backends.origin import Origin
from sundae_rt.bundle import Bundle
from sundae_rt.errors import BackendError
from sundae_rt.tensorrt import obtain as obtain_module
from sundae_rt.tensorrt.building import PORTABLE, _Phases, build, capabilities, check_capability
from sundae_rt.tensorrt.obtain import Obtained, obtain
from sundae_rt.tensorrt.opening import Library, open_library
from sundae_rt.tensorrt.profiles import Profile

pytest.importorskip("onnx", reason="the graphs of these tests are made with onnx")
pytest.importorskip("tensorrt_rtx", reason="engines are built with tensorrt-rtx: pip install 'sundae-rt[tensorrt-rtx]'")

SIZES = (Profile(1, 1, 1), Profile(1, 4, 4))


@pytest.fixture(scope="module")
def library() -> Library:
    found = open_library()
    if not found.builds_anywhere:
        pytest.skip("the full TensorRT is installed, which builds only where there is a GPU")
    return found


def model(operator: str = "Softmax", rows: Any = "B", kind: str = "FLOAT") -> bytes:
    """y = operator(x @ w), x [B,8]."""
    from onnx import TensorProto, helper, numpy_helper

    number = getattr(TensorProto, kind)
    x, y = (helper.make_tensor_value_info(name, number, (rows, 8)) for name in "xy")
    values = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    weights = helper.make_tensor("w", number, (8, 8), numpy_helper.to_array(numpy_helper.from_array(values)).ravel())
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node(operator, ["h"], ["y"])]
    graph = helper.make_graph(nodes, "g", [x], [y], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10).SerializeToString()


@pytest.fixture(scope="module")
def engine(library: Library) -> bytes:
    return build(library, model(), "g", SIZES, capability=PORTABLE)


def test_an_engine_is_built_and_a_second_one_is_the_same(library: Library, engine: bytes) -> None:
    assert len(engine) > 1000
    assert build(library, model(), "g", SIZES, capability=PORTABLE) == engine


@pytest.mark.parametrize("kind", ["FLOAT16", "BFLOAT16"])
def test_a_graph_in_16_bits_is_built_as_it_is(library: Library, kind: str) -> None:
    assert build(library, model(kind=kind), "g", SIZES, capability=PORTABLE)


def test_an_engine_for_one_gpu_is_another(library: Library, engine: bytes) -> None:
    assert build(library, model(), "g", SIZES, capability="8.9") != engine


def test_a_gpu_that_is_not_served_is_refused_with_those_that_are(library: Library) -> None:
    assert "8.9" in capabilities(library)
    with pytest.raises(BackendError, match=r"does not build for .* 9\.0 \(it builds for portable, 7\.5"):
        check_capability(library, "9.0")
    with pytest.raises(BackendError, match=r"does not build for compute capability 9\.0"):
        build(library, model(), "g", SIZES, capability="9.0")


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"junk", r"not an ONNX graph"),
        (model("NoSuchOperator"), r"cannot build g: tensorrt_rtx \S+ does not take its graph: .*NoSuchOperator"),
        (model(rows=5), r"cannot build g: its input x is \[5, 8\], not a batch of one size"),
    ],
)
def test_what_cannot_be_built_is_one_line(library: Library, data: bytes, complaint: str) -> None:
    with pytest.raises(BackendError, match=complaint) as caught:
        build(library, data, "g", SIZES, capability=PORTABLE)
    assert "\n" not in str(caught.value)


def test_the_bundle_that_ships_is_built_whole(library: Library) -> None:
    """Of real size, which takes seconds; what it runs like needs a GPU."""
    bundle = Bundle.open(engines.resolve("earth"))
    for graph in bundle.manifest.graphs:
        with bundle.weights(graph, "fp32") as folder:
            made = build(
                library, bundle.read(graph, "fp32"), graph, (Profile(1, 8, 8),), capability=PORTABLE, folder=folder
            )
        assert len(made) > 2**20


# What is kept


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin("denoiser", "fp32", "a" * 64, (tmp_path / "engines",))


def test_an_engine_is_built_once(library: Library, origin: Origin, engine: bytes) -> None:
    said: list[str] = []
    first = obtain(library, model(), origin, (PORTABLE,), SIZES, say=said.append)
    second = obtain(library, model(), origin, (PORTABLE,), SIZES, say=said.append)
    assert first.data == engine and first.seconds is not None and first.fault == ""
    assert first.path is not None and first.path.read_bytes() == engine
    assert second == Obtained(engine, first.path)
    assert said == ["building the engine of denoiser (fp32), which takes minutes"]


def test_one_that_is_damaged_is_built_anew_and_the_line_says_why(
    library: Library, origin: Origin, engine: bytes
) -> None:
    path = obtain(library, model(), origin, (PORTABLE,), SIZES, say=lambda line: None).path
    assert path is not None
    path.write_bytes(engine[: len(engine) // 2])
    said: list[str] = []
    assert obtain(library, model(), origin, (PORTABLE,), SIZES, say=said.append).data == engine
    (line,) = said
    assert f"has {len(engine) // 2} bytes and should have {len(engine)}" in line


def test_ctrl_c_ends_the_build_and_leaves_nothing_behind(library: Library, origin: Origin) -> None:
    def interrupt(share: float) -> None:
        raise KeyboardInterrupt

    bundle = Bundle.open(engines.resolve("earth"))
    graph = bundle.read("denoiser", "fp32")
    quiet = {"say": lambda line: None, "progress": interrupt}
    with bundle.weights("denoiser", "fp32") as folder, pytest.raises(KeyboardInterrupt):
        obtain(library, graph, origin, (PORTABLE,), SIZES, folder=folder, **quiet)
    assert not any(thread.name.startswith("building ") for thread in threading.enumerate())
    assert not origin.folders[0].exists()
    assert obtain(library, model(), origin, (PORTABLE,), SIZES, say=lambda line: None).path is not None


def test_one_that_cannot_be_kept_says_that_it_was_built_and_where_it_could_not_be_written(
    library: Library, tmp_path: Path, engine: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obtain_module, "build", lambda *args, **options: engine)
    (tmp_path / "file").write_text("in the way")
    place = tmp_path / "file" / "engines"
    origin = Origin("denoiser", "fp32", "a" * 64, (place,))
    obtained = obtain(library, model(), origin, (PORTABLE,), SIZES, say=lambda line: None)
    assert (obtained.data, obtained.path) == (engine, None)
    assert obtained.seconds is not None
    assert obtained.fault == f"cannot keep an engine in {place}: not writable"


# Progress


def test_progress_counts_phases_within_phases_and_never_goes_back() -> None:
    phases = _Phases()
    assert phases.share() == 0
    phases.start("all", None, 4)
    assert phases.step("all", 0)
    assert phases.share() == 0.25
    phases.start("part", "all", 2)
    phases.step("part", 0)
    assert phases.share() == 0.375
    phases.finish("part")
    assert phases.share() == 0.375
    phases.step("all", 1)
    assert phases.share() == 0.5
    phases.cancelled = True
    assert not phases.step("all", 2)
