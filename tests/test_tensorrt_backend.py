"""The backend `tensorrt` on a fake GPU: which engine it loads, when it builds one, and what it says is missing."""

from __future__ import annotations

import logging
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fake_tensorrt import FakeDriver, engine_bytes, fake_library
from fakes import ALL_GRAPHS, FakeBackend, entry, write_bundle
from sundae_rt import backends, graphs
from sundae_rt.backends import open_backend, timings
from sundae_rt.backends import tensorrt as tensorrt_backend
from sundae_rt.backends.driver import Device
from sundae_rt.backends.origin import Origin
from sundae_rt.backends.source import GraphSource
from sundae_rt.backends.tensorrt import TensorRTBackend
from sundae_rt.backends.timings import Timing
from sundae_rt.bundle import Bundle
from sundae_rt.choice import choose_backend, choose_variant
from sundae_rt.errors import BackendError
from sundae_rt.graphs import Graphs
from sundae_rt.tensorrt import obtain as obtain_module
from sundae_rt.tensorrt.cache import Cache, Key
from sundae_rt.tensorrt.opening import open_library
from sundae_rt.tensorrt.profiles import DEFAULT, Profile


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The compute capability of each engine that is built, which takes no time."""
    found: list[str | None] = []

    def build(library: Any, model: bytes, name: str, profiles: Any, *, capability: str | None, **rest: Any) -> bytes:
        found.append(capability)
        return engine_bytes()

    monkeypatch.setattr(obtain_module, "build", build)
    return found


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin("denoiser", "fp16", "a" * 64, (tmp_path,))


def backend(capability: str = "8.9", name: str = "tensorrt_rtx") -> TensorRTBackend:
    driver = FakeDriver(device=Device("Fake GPU", capability, 2**34))
    return TensorRTBackend(fake_library(driver, name), driver)


def keep(origin: Origin, engine: bytes, capability: str, profiles: tuple[Profile, ...] = DEFAULT) -> None:
    library = fake_library(FakeDriver())
    Cache(origin.folders).write(Key.of(origin, library, capability, profiles), engine)


def in_the_way(origin: Origin) -> Origin:
    """The same origin, where nothing can be kept."""
    file = origin.folders[0] / "file"
    file.write_text("in the way")
    return replace(origin, folders=(file / "engines",))


def doubled(graph: Any) -> bool:
    x = np.arange(6, dtype=np.int32).reshape(2, 3)
    return bool(np.array_equal(graph.run({"x": x})["y"], 2 * x))


def test_an_engine_is_built_at_first_use_and_then_kept(
    builds: list[str | None], origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        assert doubled(backend().load(GraphSource(b"graph", "denoiser (fp16)", origin=origin)))
    assert builds == ["portable"]
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "building the engine of denoiser (fp16), which takes minutes"
    ]


@pytest.mark.parametrize("capability", ["8.9", "portable"])
@pytest.mark.parametrize("profiles", [DEFAULT, (Profile(1, 16, 16),)])
def test_what_was_built_ahead_is_loaded_whatever_its_batches(
    builds: list[str | None], origin: Origin, capability: str, profiles: tuple[Profile, ...]
) -> None:
    keep(origin, engine_bytes(), capability, profiles)
    assert backend().is_built(origin)
    assert doubled(backend().load(GraphSource(b"graph", "denoiser (fp16)", origin=origin)))
    assert not builds


def test_an_engine_for_another_card_is_not_loaded(
    builds: list[str | None], origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    keep(origin, b"of no use here", "12.0")
    assert not backend().is_built(origin)
    assert doubled(backend().load(GraphSource(b"graph", "denoiser (fp16)", origin=origin)))
    assert "minutes: the one here is for compute capability 12.0" in caplog.text


def test_an_engine_that_does_not_load_is_built_anew_once(
    builds: list[str | None], origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    keep(origin, b"foreign", "portable")
    assert doubled(backend().load(GraphSource(b"graph", "denoiser (fp16)", origin=origin)))
    assert builds == ["portable"]
    assert "minutes: tensorrt: denoiser (fp16): its engine does not load: deserialize: Error Code 1" in caplog.text


@pytest.mark.parametrize("is_kept", [True, False])
def test_one_that_does_not_load_though_it_was_just_built_is_an_error(
    monkeypatch: pytest.MonkeyPatch, origin: Origin, is_kept: bool
) -> None:
    built = []

    def build(library: Any, model: bytes, name: str, *args: Any, **options: Any) -> bytes:
        built.append(name)
        return b"foreign"

    monkeypatch.setattr(obtain_module, "build", build)
    if not is_kept:
        origin = in_the_way(origin)
    with pytest.raises(BackendError, match=r"^tensorrt: denoiser \(fp16\): its engine does not load: "):
        backend().load(GraphSource(b"graph", "denoiser (fp16)", origin=origin))
    assert built == ["denoiser (fp16)"]


def test_one_that_cannot_be_kept_runs_this_once_and_the_log_says_so(
    builds: list[str | None], origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    assert doubled(backend().load(GraphSource(b"graph", "denoiser (fp16)", origin=in_the_way(origin))))
    assert builds == ["portable"]
    assert "the engine of denoiser (fp16) is not kept: cannot keep an engine in " in caplog.text


@pytest.mark.parametrize(
    ("capability", "name", "target"),
    [("7.5", "tensorrt_rtx", "7.5"), ("12.0", "tensorrt_rtx", "portable"), ("9.0", "tensorrt", None)],
)
def test_it_builds_for_the_gpu_that_is_there(
    builds: list[str | None], origin: Origin, capability: str, name: str, target: str | None
) -> None:
    backend(capability, name).load(GraphSource(b"graph", "denoiser (fp16)", origin=origin))
    assert builds == [target]
    (entry,) = origin.folders[0].glob("*.json")
    assert f'"capability": "{target or capability}"' in entry.read_text()


def test_a_gpu_that_the_library_does_not_serve_is_named_with_the_remedy() -> None:
    with pytest.raises(BackendError, match=r"does not serve Fake GPU \(.* 9\.0, .*'sundae-rt\[tensorrt\]'$"):
        backend("9.0")


def test_a_graph_from_nowhere_runs_and_nothing_is_kept(
    builds: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert doubled(backend().load(GraphSource(b"graph", "denoiser (fp16)")))
    assert not [*tmp_path.iterdir()]


# What is missing


def no_driver() -> FakeDriver:
    raise BackendError("this machine has no NVIDIA driver: install it")


def test_without_a_gpu_it_says_so_before_anything_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_backend, "CudaDriver", no_driver)
    with pytest.raises(BackendError, match=r"^tensorrt: this machine has no NVIDIA driver"):
        open_backend("tensorrt")


def test_without_the_library_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(tensorrt_backend, "CudaDriver", FakeDriver)
    complaint = r"^tensorrt: TensorRT cannot be imported \(tensorrt: .*; tensorrt_rtx: .*'sundae-rt\[tensorrt-rtx\]'"
    with pytest.raises(BackendError, match=complaint):
        open_backend("tensorrt")


def test_a_library_that_is_there_but_does_not_load_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))  # what an uninstalled package leaves behind
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(BackendError, match=r"\(tensorrt is installed but does not load: .*Builder.*; tensorrt_rtx: "):
        open_library()


# What auto makes of it


@pytest.fixture
def auto(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    """`auto` has TensorRT, and else a backend that is always there."""
    other = FakeBackend()
    monkeypatch.setattr(backends, "_BACKENDS", {"tensorrt": lambda threads: backend(), "fake": lambda threads: other})
    return other


def both(folder: Path) -> Bundle:
    """A bundle in fp32 and fp16."""
    graphs = {graph: {"fp32": entry(graph), "fp16": entry(graph, "half")} for graph in ALL_GRAPHS}
    return Bundle.open(write_bundle(folder / "both", graphs=graphs))


def test_auto_builds_no_engine_and_says_which_command_does(
    builds: list[str | None], auto: FakeBackend, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bundle = both(tmp_path)
    keep(bundle.origin("denoiser", "fp16"), engine_bytes(), "portable")  # and none of the other graphs
    assert choose_backend(bundle, "auto", "auto", None) == (auto, "auto")
    said = f"auto picked the backend fake; tensorrt: no engine is built: sundae-rt build --bundle {bundle.path}"
    assert said in caplog.text
    assert not builds


@pytest.mark.parametrize(("built", "wanted", "taken"), [("fp16", "auto", "auto"), ("fp32", "auto", "fp32")])
def test_auto_takes_tensorrt_with_the_variant_whose_engines_are_all_built(
    auto: FakeBackend, tmp_path: Path, built: str, wanted: str, taken: str
) -> None:
    bundle = both(tmp_path)
    for graph in ALL_GRAPHS:
        keep(bundle.origin(graph, built), engine_bytes(), "portable")
    chosen, variant = choose_backend(bundle, "auto", wanted, None)
    assert (chosen.name, variant) == ("tensorrt", taken)
    assert choose_variant(bundle.manifest, "denoiser", chosen, variant).name == built


def test_auto_takes_tensorrt_for_no_variant_that_was_asked_for_and_is_not_built(
    auto: FakeBackend, tmp_path: Path
) -> None:
    bundle = both(tmp_path)
    for graph in ALL_GRAPHS:
        keep(bundle.origin(graph, "fp16"), engine_bytes(), "portable")
    assert choose_backend(bundle, "auto", "fp32", None) == (auto, "fp32")


def test_what_was_timed_as_the_fastest_is_passed_over_once_its_engines_are_gone(
    auto: FakeBackend, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    caplog.set_level(logging.INFO)
    bundle = both(tmp_path)
    timings.remember(bundle.fingerprint, None, [Timing("tensorrt", "fp16", 1.0), Timing("fake", "fp32", 2.0)])
    assert choose_backend(bundle, "auto", "auto", None) == (auto, "fp32")
    assert "tensorrt, which was the fastest, is passed over: no engine is built" in caplog.text


def test_asked_for_by_name_it_builds(builds: list[str | None], auto: FakeBackend, tmp_path: Path) -> None:
    bundle = both(tmp_path)
    chosen, variant = choose_backend(bundle, "tensorrt", "fp16", None)
    assert variant == "fp16"
    chosen.load(GraphSource(b"graph", "denoiser (fp16)", origin=bundle.origin("denoiser", "fp16")))
    assert builds == ["portable"]


def test_graphs_load_at_once_unless_they_are_large_or_engines_must_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What loading large ones takes does not add up, and Ctrl-C reaches the thread that builds."""
    loaded = []
    slow = FakeBackend()
    load = slow.load

    def note(source: GraphSource) -> Any:
        loaded.append(threading.current_thread() is threading.main_thread())
        return load(source)

    monkeypatch.setattr(slow, "load", note)
    size = len("denoiser")  # the larger one
    for is_built, limit, in_main in ((True, size, False), (True, size - 1, True), (False, size, True)):
        monkeypatch.setattr(slow, "is_built", lambda origin, answer=is_built: answer)
        monkeypatch.setattr(graphs, "SMALL", limit)
        loaded.clear()
        Graphs(Bundle.open(write_bundle(tmp_path)), slow, "auto").require("denoiser", "decoder")
        assert loaded == [in_main, in_main]
