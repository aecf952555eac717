"""`sundae-rt info`: everything a bundle says of itself, and whether its files are what they were."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from fake_tensorrt import FakeDriver, fake_library
from fakes import LABELS, absorbing, entry, labelled, write_bundle
from sundae_rt import backends
from sundae_rt.backends import driver as driver_module
from sundae_rt.backends import installation
from sundae_rt.backends.driver import Device
from sundae_rt.backends.tensorrt import TensorRTBackend
from sundae_rt.bundle import Bundle


def test_people_read_what_it_makes_holds_and_measured(run: Any) -> None:
    write_bundle(Path("earth"), **labelled(name="earth", checks={"denoiser": {"max_difference": 1e-5}}))
    result = run("info", "./earth")
    text = "\n".join(result.out)
    assert result.code == 0
    assert result.out[0] == "earth (sundae, format version 1)"
    for part in (
        "images of 8x6 pixels from 4x3 codes, each one of 100",
        "coast 50%, desert 25%, ice 25%",
        "steps 6, temperature 1 to 0.5, proportion 1 to 0.5, min_steps 3, guidance 1, stop proposal, order uniform, "
        "choice_temperature 0 to 0",
        "denoiser  fp32  denoiser.onnx  0.00 MB  intact",
        "max_difference: 1e-05",
        Bundle.open("earth").fingerprint,
    ):
        assert part in text


def test_a_family_shows_only_its_own_settings_and_a_model_whether_it_can_be_guided(run: Any) -> None:
    write_bundle(Path("a"), **absorbing(**labelled(null_label=False)))
    result = run("info", "a")
    assert result.out[0] == "fake (absorbing, format version 1)"
    assert "  by default   steps 6, temperature 1 to 0.5, guidance 1" in result.out
    assert "  guidance     none: the model knows no null label" in result.out
    facts = json.loads("\n".join(run("info", "a", "--json").out))
    assert (facts["guidance"], list(facts["default_schedule"])) == (False, ["steps", "temperature", "guidance"])


def test_nothing_that_a_bundle_says_moves_the_cursor(run: Any) -> None:
    write_bundle(Path("odd"), provenance={"a\x1b[2Jb": "c\x9b2Jd\ne"})
    result = run("info", "odd")
    assert result.code == 0
    assert '  "a\\u001b[2Jb": "c\\u009b2Jd\\ne"' in result.out
    assert all(line.isprintable() for line in result.out)


def test_machines_read_the_same_as_json(run: Any) -> None:
    write_bundle(Path("earth"), **labelled(name="earth", provenance={"licence": "public domain"}))
    facts = json.loads("\n".join(run("info", "./earth", "--json").out))
    assert (facts["name"], facts["labels"], facts["image_size"]) == ("earth", LABELS, [6, 8])
    assert facts["provenance"] == {"licence": "public domain"}
    assert facts["graphs"]["encoder"]["fp32"] == {
        "file": "encoder.onnx",
        "sha256": hashlib.sha256(Path("earth/encoder.onnx").read_bytes()).hexdigest(),
        "requires": [],
        "bytes": Path("earth/encoder.onnx").stat().st_size,
        "fault": None,
    }


def test_it_says_which_backends_could_run_it_here(run: Any) -> None:
    found = json.loads("\n".join(run("info", "fake", "--json").out))["backends"]
    assert set(found) == {"tensorrt", "cuda", "openvino", "cpu"}
    assert found["cpu"] is None


def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has, `auto` takes the CPU."""
    only(monkeypatch, "cpu", backends._BACKENDS["cpu"])


def only(monkeypatch: pytest.MonkeyPatch, name: str, opener: Any) -> None:
    monkeypatch.setattr(backends, "_BACKENDS", {name: opener})
    monkeypatch.setattr("sundae_rt.choice.open_backend", backends.open_backend)


@pytest.mark.parametrize(("instructions", "best"), [({"avx2"}, "fp32"), ({"avx2", "avx512_vnni"}, "int8")])
def test_it_says_what_would_really_run_each_graph(
    instructions: set[str], best: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_the_cpu(monkeypatch)
    monkeypatch.setattr("sundae_rt.backends.onnxruntime.instructions", lambda: frozenset(instructions))
    runs = json.loads("\n".join(run("info", "earth", "--json").out))["runs"]
    variants = {"denoiser": best, "decoder": best, "encoder": "fp32"}
    assert runs == {graph: {"backend": "cpu", "variant": variant, "fault": None} for graph, variant in variants.items()}


def test_a_graph_that_does_not_load_is_said_not_to_run(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    on_the_cpu(monkeypatch)
    result = run("info", "fake")  # whose graphs are no ONNX
    assert result.code == 0
    (line,) = [line for line in result.out if line.startswith("  denoiser  NOT: cpu: cannot load denoiser (fp32): ")]
    assert line.isprintable()


def test_an_engine_that_is_not_built_yet_is_said_not_to_run_and_none_is_built(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = FakeDriver()
    fake = TensorRTBackend(fake_library(driver), driver)
    only(monkeypatch, "tensorrt", lambda threads: fake)
    facts = json.loads("\n".join(run("info", "fake", "--json").out))
    assert facts["backends"] == {"tensorrt": None}
    assert facts["runs"]["denoiser"]["backend"] is None
    assert facts["runs"]["denoiser"]["fault"].endswith("tensorrt: no engine is built: sundae-rt build --bundle fake")
    assert not Path("fake/engines").exists()


def test_without_a_bundle_it_says_what_this_machine_has_and_lacks(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "_LIBRARY", "libnosuchdriver.so.1")
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    result = run("info")
    text = "\n".join(result.out)
    assert result.code == 0
    assert "  GPU           none: this machine has no NVIDIA driver (libnosuchdriver.so.1 is not found)" in text
    assert "with" in next(line for line in result.out if line.startswith("  ONNX Runtime"))
    assert "'sundae-rt[tensorrt-rtx]'" in next(line for line in result.out if line.startswith("  TensorRT "))
    assert "  cpu       present" in result.out
    assert set(json.loads("\n".join(run("info", "--json").out))) == {"machine", "backends"}


def test_gpus_and_a_doubled_install_are_shown(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    on_the_cpu(monkeypatch)
    monkeypatch.setattr(driver_module, "load_library", lambda: None)
    monkeypatch.setattr(driver_module, "devices", lambda library: [Device("NVIDIA L4", "8.9", 24 * 2**30)])
    monkeypatch.setattr(installation, "installed", lambda: ["onnxruntime", "onnxruntime-gpu"])
    text = "\n".join(run("info").out)
    assert "  GPU           NVIDIA L4 (compute capability 8.9, 24 GB)" in text
    assert "; onnxruntime and onnxruntime-gpu are both installed and overwrite one another" in text


def test_altered_and_missing_files_are_shown_and_end_in_an_error(run: Any) -> None:
    Path("fake/denoiser.onnx").write_text("altered")
    Path("fake/decoder.onnx").unlink()
    result = run("info", "fake")
    assert result.code == 1
    assert sum("NOT INTACT" in line for line in result.out) == 2
    assert len(result.err) == 1
    assert "denoiser.onnx is damaged or was altered" in result.err[0]


@pytest.mark.parametrize(
    ("is_named", "content", "fault"),
    [
        (True, "weights", None),
        (True, "altered", "weights is damaged or was altered"),
        (False, "weights", "denoiser has weights in 'weights', which its manifest does not name"),
    ],
)
def test_a_graph_is_intact_if_its_weights_are_those_that_the_manifest_names(
    run: Any, is_named: bool, content: str, fault: str | None
) -> None:
    model = "denoiser \n\x08location\x12\x07weights"  # as ONNX says where weights lie
    file = entry("denoiser", content=model)
    if is_named:
        file["data"] = {"file": "weights", "sha256": hashlib.sha256(b"weights").hexdigest()}
    write_bundle(Path("large"), holds=("denoiser",), graphs={"denoiser": {"fp32": file}})
    Path("large/denoiser.onnx").write_bytes(model.encode())
    Path("large/weights").write_text(content)
    result = run("info", "large")
    (line,) = [line for line in result.out if line.startswith("  denoiser  fp32 ")]
    assert line.endswith("  intact" if fault is None else "  NOT INTACT")
    assert result.code == (0 if fault is None else 1)
    assert fault is None or fault in result.err[0]


def test_what_is_no_bundle_is_refused(run: Any) -> None:
    result = run("info", "nowhere")
    assert (result.code, result.out, len(result.err)) == (1, [], 1)
