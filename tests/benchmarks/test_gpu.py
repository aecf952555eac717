"""The benchmark of a GPU, at toy size on a CPU: what it finds right and wrong, whom it times, and what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from fakes import VOCABULARY, FakeBackend, fake_runtime, wander
from house import benchmark
from sundae_rt.runtime import Runtime


@pytest.fixture(scope="module")
def gpu() -> Any:
    return benchmark("gpu")


@pytest.fixture(scope="module")
def checks() -> Any:
    return benchmark("checks")


@pytest.fixture(scope="module")
def ran(gpu: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One run on the CPU: its lines, and what it wrote."""
    folder = tmp_path_factory.mktemp("benchmark")
    lines: list[str] = []
    options = ["--device", "cpu", "--preset", "toy", "--steps", 3, "--rounds", 1, "--batch", 1, "--batch", 2]
    options += ["--threads", 1, "--contender", "runtime-onnxruntime", "--contender", "runtime-tensorrt"]
    options += ["--bundles", folder / "bundles", "--results", folder / "results"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu.machine, "_SECONDS", 0.001)  # for the limits of the machine, which are not what is tested
        patch.setattr(gpu.click, "echo", lambda text="": lines.extend(str(text).splitlines()))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.chdir(folder)  # it may be called from anywhere
        gpu.main.main([str(option) for option in options], standalone_mode=False)
    (written,) = (folder / "results").iterdir()
    return {"lines": lines, "written": json.loads(written.read_text())}


def test_every_variant_of_every_backend_is_checked(ran: dict[str, Any]) -> None:
    found = {(one["backend"], one["variant"]): one for one in ran["written"]["presets"]["toy"]["checks"]}
    exact = found["cpu", "fp32"]
    assert (exact["equal"], exact["psnr"], exact["batches"], exact["loop"]) == ([1.0, 1.0, 1.0], None, True, True)
    rounded = found["cpu", "int8"]
    assert 0.8 < rounded["equal"][-1] < 1 and rounded["batches"] and rounded["loop"]
    assert any(backend == "openvino" for backend, _ in found)
    assert not any(one["faults"] for one in found.values())


def test_every_contender_is_timed_at_every_size_of_batch_and_who_is_absent_says_why(ran: dict[str, Any]) -> None:
    rows = ran["written"]["presets"]["toy"]["rows"]
    assert [(row["name"], row["batch"]) for row in rows] == [
        (name, batch) for batch in (1, 2) for name in ("runtime-onnxruntime", "runtime-tensorrt")
    ]
    for row in rows[::2]:
        assert row["missing"] is None and row["how"].startswith("cpu, ")
        assert row["images_per_second"] > 0 and row["memory_mib"] > 10
    for row in rows[1::2]:
        assert row["missing"].startswith("sundae_rt.errors.BackendError: tensorrt: ")


def test_the_tables_come_last_and_are_written(ran: dict[str, Any]) -> None:
    table = ran["written"]["table"]
    assert ran["lines"][-len(table) :] == table
    first = "| toy | cpu fp32 | 1: 100.0 %, 2: 100.0 %, 3: 100.0 % | equal | same | same | yes |"
    assert first in table
    (line, _) = [line for line in table if "| runtime-tensorrt |" in line]
    assert line.startswith("| toy | 1 | runtime-tensorrt | not run: sundae_rt.errors.BackendError: tensorrt: ")
    assert ran["written"]["gemm_gflops"]["fp32"] > 0 and ran["written"]["presets"]["toy"]["gflop_per_image"] > 0


# What is found wrong


class Crooked(FakeBackend):
    """A backend whose rows depend on how many there are, or that writes where it should not."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def _denoiser(self, inputs: Any) -> dict[str, np.ndarray]:
        outputs = super()._denoiser(inputs)
        if self.fault == "batch":
            outputs["proposal"] = (outputs["proposal"] + len(inputs["codes"]) - 1) % VOCABULARY
        if self.fault == "write":
            outputs["new_codes"] = outputs["proposal"]
        return outputs


def findings(checks: Any, folder: Path, backend: FakeBackend, **changes: Any) -> Any:
    def open_with(batch: int) -> Runtime:
        return fake_runtime(folder / str(batch), backend, batch_size=batch)

    with fake_runtime(folder / "right", FakeBackend(wander)) as right:
        codes = checks.steps_of(right, 5)
        reference = {"codes": codes, "pictures": right.decode(codes[-1]), **changes}
    with open_with(checks.IMAGES) as runtime:
        return checks.judged(runtime, open_with, reference)


def test_what_is_right_has_no_faults(checks: Any, tmp_path: Path) -> None:
    found = findings(checks, tmp_path, FakeBackend(wander))
    assert (found.equal, found.psnr, found.batches, found.loop, found.faults) == ((1.0,) * 5, None, True, True, ())


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("batch", "images depend on the size of the batch"),
        ("write", "the sampler's images are not those of single steps"),
    ],
)
def test_a_backend_that_is_not_one_with_itself_is_found_out(checks: Any, tmp_path: Path, fault: str, told: str) -> None:
    assert told in findings(checks, tmp_path, Crooked(fault)).faults


def test_other_codes_and_other_pictures_are_found_out(checks: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    found = findings(checks, tmp_path / "codes", FakeBackend(lambda inputs: (wander(inputs) + 1) % VOCABULARY))
    assert found.faults == ("0.0% of codes equal after one step, less than 99%",)
    pictures = rng.integers(0, 256, (checks.IMAGES, 6, 8, 3), np.uint8)
    (fault,) = findings(checks, tmp_path / "other", FakeBackend(wander), pictures=pictures).faults
    assert fault.startswith("pictures at ") and fault.endswith(" dB, less than 45")


# What it makes of it


def outcome(gpu: Any, checks: Any, monkeypatch: pytest.MonkeyPatch, folder: Path, *found: Any) -> str:
    """How a run ends whose checks find this."""
    monkeypatch.setattr(gpu, "_checked", lambda *arguments: found)
    monkeypatch.setattr(gpu, "_timed", lambda name, batch, *rest: gpu.Row(name, batch, missing="not asked"))
    monkeypatch.setattr(gpu.race, "bundle_of", lambda preset, *rest: folder)
    monkeypatch.setattr(gpu.race, "gflop_per_image", lambda *rest: 1.0)
    monkeypatch.setattr(gpu.machine, "gemm_limits", lambda threads: {"fp32": 1.0})
    try:
        gpu.main.main(["--device", "cpu", "--preset", "toy", "--results", str(folder)], standalone_mode=False)
    except click.ClickException as error:
        assert error.exit_code == 1
        return error.message
    return ""


def test_a_check_that_fails_is_the_exit_code_and_what_is_absent_is_not(
    gpu: Any, checks: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    right = checks.Findings("cuda", "fp16", (1.0,), None, True, True)
    wrong = checks.Findings("cuda", "fp32", (0.5,), 20.0, True, False, ("50.0% of codes", "not those of single steps"))
    absent = checks.Findings("tensorrt", missing="tensorrt: no driver", is_absent=True)
    end = (gpu, checks, monkeypatch, tmp_path)
    assert outcome(*end, right, absent) == ""
    told = "2 checks failed: cuda fp32: 50.0% of codes; cuda fp32: not those of single steps"
    assert outcome(*end, right, wrong, absent) == told
    assert outcome(*end, absent) == "no backend for cpu is here: nothing was checked"


def test_a_backend_that_dies_is_a_failed_check_with_its_last_line(gpu: Any, tmp_path: Path) -> None:
    (tmp_path / "toy-3.npz").write_bytes(b"no arrays")
    (found,) = gpu._checked(["cpu"], tmp_path / "toy", 3, 1)
    assert found.faults == (found.missing,) and not found.is_absent
    assert found.missing.startswith("ended with 1: ")
