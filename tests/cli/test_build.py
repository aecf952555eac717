"""`sundae-rt build`: an engine for each graph, on a library that builds at once."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from fake_tensorrt import FakeDriver, engine_bytes, fake_library
from fakes import entry, write_bundle
from sundae_rt.backends import driver
from sundae_rt.errors import BackendError
from sundae_rt.tensorrt import obtain, opening
from sundae_rt.tensorrt.opening import Library

GRAPHS = ("denoiser", "decoder", "encoder")


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None, list[str]]]:
    """What is built: name, compute capability and batches."""
    found = []

    def build(
        library: Library, model: bytes, name: str, profiles: Any, *, capability: str | None, **rest: Any
    ) -> bytes:
        rest["progress"](0.5)
        found.append((name, capability, [*map(str, profiles)]))
        return engine_bytes()

    monkeypatch.setattr(obtain, "build", build)
    use(monkeypatch, "tensorrt_rtx")
    return found


def use(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(opening, "open_library", lambda: fake_library(FakeDriver(), name))


def half(folder: str = "both", holds: tuple[str, ...] = GRAPHS) -> Path:
    """A bundle whose denoiser is there in fp16 too, and in a variant for something else."""
    graphs = {graph: {"fp32": entry(graph)} for graph in holds}
    graphs["denoiser"] |= {"int8": entry("denoiser", "fake"), "fp16": entry("denoiser", "half")}
    return write_bundle(Path(folder), holds=holds, graphs=graphs)


def test_every_graph_gets_its_best_variant_for_every_gpu_and_a_line(run: Any, builds: list[Any]) -> None:
    half()
    result = run("build", "--bundle", "both")
    assert result.code == 0
    assert builds == [
        ("denoiser (fp16)", "portable", ["1", "1:64"]),
        ("decoder (fp32)", "portable", ["1", "1:64"]),
        ("encoder (fp32)", "portable", ["1", "1:64"]),
    ]
    (size,) = {len(engine_bytes())}
    assert result.out[0].startswith(f"denoiser (fp16): {size / 1e6:.1f} MB for portable, batches of 1, 1:64, built in ")
    assert {path.suffix for path in Path("both/engines").iterdir()} == {".engine", ".json"}
    assert len([*Path("both/engines").iterdir()]) == 6


def test_what_is_there_is_not_built_again_unless_that_is_asked_for(run: Any, builds: list[Any]) -> None:
    half()
    run("build", "--bundle", "both")
    result = run("build", "--bundle", "both")
    assert (result.err, len(builds)) == ([], 3)
    assert all(line.endswith(", is there") for line in result.out)
    result = run("build", "--bundle", "both", "--force")
    assert len(builds) == 6
    assert result.err[0].endswith("minutes: asked for with --force")


def test_precision_batches_and_gpu_may_be_chosen(run: Any, builds: list[Any]) -> None:
    half()
    options = ("--precision", "fp32", "--batch", "1:16", "--batch", "2", "--compute-capability", "8.9")
    assert run("build", "--bundle", "both", *options).code == 0
    assert builds[0] == ("denoiser (fp32)", "8.9", ["2", "1:16"])


def test_a_changed_graph_is_built_anew_and_the_line_says_why(run: Any, builds: list[Any]) -> None:
    run("build", "--bundle", "fake")
    manifest = json.loads(Path("fake/manifest.json").read_text())
    Path("fake/decoder.onnx").write_text("another")
    manifest["graphs"]["decoder"]["fp32"] = entry("decoder", content="another")
    Path("fake/manifest.json").write_text(json.dumps(manifest))
    result = run("build", "--bundle", "fake")
    assert result.err == [
        "sundae-rt: building the engine of decoder (fp32), which takes minutes: "
        "the one here was built from another graph"
    ]
    assert len([*Path("fake/engines").glob("decoder-*.engine")]) == 1


def test_a_zipped_bundle_keeps_its_engines_in_the_users_cache(
    run: Any, builds: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.make_archive("zipped", "zip", "fake")
    result = run("build", "--bundle", "zipped.zip")
    assert result.code == 0
    assert len([*(tmp_path / "cache" / "sundae-rt" / "engines").rglob("*.engine")]) == 4


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            ["--precision", "fp8"],
            "has no variant 'fp8' (it has fp32): export it again with --variants fp32,fp8",
        ),
        (["--batch", "9:1"], "batch must rise from 1 or more to at most 65535, not 9:1"),
        (["--batch", "many"], "batch must be N, A:B or A:LIKELY:B, not 'many'"),
        (
            ["--compute-capability", "9.0"],
            "compute capability 9.0 (it builds for portable, 7.5, 8.0,",
        ),
        (["--bundle", "nowhere"], "no bundle 'nowhere'"),
    ],
)
def test_bad_options_are_one_line_before_anything_is_built(
    run: Any, builds: list[Any], options: list[str], complaint: str
) -> None:
    result = run("build", "--bundle", "fake", *options)
    assert (result.code, result.out, builds) == (1, [], [])
    (line,) = result.err
    assert complaint in line


def test_a_damaged_graph_is_not_built(run: Any, builds: list[Any]) -> None:
    Path("fake/denoiser.onnx").write_text("altered")
    result = run("build", "--bundle", "fake")
    assert (result.code, builds) == (1, [])
    assert "denoiser.onnx is damaged or was altered" in result.err[0]


def test_weights_that_the_manifest_does_not_name_are_not_built_wherever_it_is_called(
    run: Any, builds: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = "denoiser\n\x08location\x12\x07weights"  # as ONNX says where weights lie
    Path("fake/denoiser.onnx").write_bytes(model.encode())
    Path("fake/weights").write_text("of somebody")
    manifest = json.loads(Path("fake/manifest.json").read_text())
    manifest["graphs"]["denoiser"]["fp32"] = entry("denoiser", content=model)
    Path("fake/manifest.json").write_text(json.dumps(manifest))
    monkeypatch.chdir("fake")  # where TensorRT would look for them
    result = run("build", "--bundle", ".")
    assert (result.code, result.out, builds) == (1, [], [])
    assert result.err == [
        "sundae-rt: .: denoiser has weights in 'weights', which its manifest does not name: export it"
    ]
    assert not Path("engines").exists()


def test_an_engine_that_cannot_be_kept_is_an_error_and_what_was_kept_stays(
    run: Any, builds: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, room = Path.write_bytes, [True, False]

    def until_full(path: Path, data: bytes) -> int:
        if path.suffix == ".engine" and not room.pop(0):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, data)

    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", until_full)
        result = run("build", "--bundle", "fake")
    assert result.code == 1
    assert [line.partition(":")[0] for line in result.out] == ["denoiser (fp32)"]
    told = result.err[-1]
    assert told.startswith("sundae-rt: the engine of decoder (fp32) was built in 0 s but is not kept (cannot write ")
    assert "fake/engines/decoder-fp32-" in Path(told).as_posix() and os.strerror(errno.ENOSPC) in told
    assert len(result.err) == 3  # of which two say that a build begins
    assert sorted(path.name.partition("-")[0] for path in Path("fake/engines").iterdir()) == ["denoiser"] * 2
    result = run("build", "--bundle", "fake")
    assert result.code == 0
    assert result.out[0].endswith(", is there") and ", built in " in result.out[1]


def test_export_builds_them_in_one_go_where_that_is_asked_for(
    run: Any, builds: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    export = types.ModuleType("sundae_rt.export")
    export.export_checkpoint = lambda checkpoint, *, out, **rest: half(str(out))
    monkeypatch.setitem(sys.modules, "sundae_rt.export", export)
    arguments = ("export", "--preset", "toy", "--random-weights", "--out")
    assert run(*arguments, "plain").code == 0
    assert builds == []
    assert run(*arguments, "whole", "--tensorrt").code == 0
    assert [name for name, _, _ in builds] == ["denoiser (fp16)", "decoder (fp32)", "encoder (fp32)"]


def test_without_tensorrt_it_says_how_to_install_it(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    result = run("build", "--bundle", "fake")
    assert result.code == 1
    assert "pip install 'sundae-rt[tensorrt-rtx]'" in result.err[0]


def test_ctrl_c_keeps_what_is_finished_and_leaves_nothing_else(
    run: Any, builds: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = obtain.build

    def build(library: Library, model: bytes, name: str, *args: Any, **options: Any) -> bytes:
        if name.startswith("decoder"):
            raise KeyboardInterrupt
        return first(library, model, name, *args, **options)

    monkeypatch.setattr(obtain, "build", build)
    result = run("build", "--bundle", "fake")
    assert (result.code, result.err[-1]) == (130, "sundae-rt: interrupted")
    assert sorted(path.name.partition("-")[0] for path in Path("fake/engines").iterdir()) == ["denoiser"] * 2


def test_the_full_tensorrt_builds_for_the_gpu_that_is_there(
    run: Any, builds: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, "tensorrt")
    monkeypatch.setattr(driver, "CudaDriver", FakeDriver)
    assert run("build", "--bundle", "fake").code == 0
    assert builds[0][:2] == ("denoiser (fp32)", None)
    result = run("build", "--bundle", "fake", "--compute-capability", "8.6")
    assert "builds for this machine's GPU alone, Fake GPU (compute capability 8.9, 24 GB), not for 8.6" in result.err[0]


def test_the_full_tensorrt_without_a_gpu_names_the_one_that_needs_none(
    run: Any, builds: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_driver() -> None:
        raise BackendError("this machine has no NVIDIA driver: install it")

    use(monkeypatch, "tensorrt")
    monkeypatch.setattr(driver, "CudaDriver", no_driver)
    result = run("build", "--bundle", "fake")
    assert (result.code, builds) == (1, [])
    assert "no NVIDIA driver" in result.err[0] and "'sundae-rt[tensorrt-rtx]' builds without one" in result.err[0]
