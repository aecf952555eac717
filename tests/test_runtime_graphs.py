"""The graphs of a bundle through the Python interface, on a backend without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import GRID, IMAGE, ONE_STEP, VOCABULARY, FakeBackend, entry, fake_runtime, grids, labelled, write_bundle
from sundae_rt import BackendError, BundleError, InputError, Runtime
from sundae_rt import runtime as runtime_module
from sundae_rt.backends.source import GraphSource
from sundae_rt.bundle import Bundle
from sundae_rt.runtime import image_batch

# The raw graphs


def test_encode_and_decode_are_batched(tmp_path: Path) -> None:
    backend = FakeBackend()
    runtime = fake_runtime(tmp_path, backend)
    codes = grids(19)
    images = runtime.decode(codes)
    assert images.shape == (19, *IMAGE, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(runtime.encode(images), codes)
    assert backend.calls == [(graph, rows) for graph in ("decoder", "encoder") for rows in (8, 8, 3)]


@pytest.mark.parametrize(
    ("size", "count"), [(None, 8), ((28, 28), 8), ((128, 128), 8), ((256, 256), 2), ((512, 512), 1), ((1024, 1024), 1)]
)
def test_the_larger_images_are_the_fewer_are_decoded_at_once(size: tuple[int, int] | None, count: int) -> None:
    assert image_batch(size) == count


def test_the_batches_of_large_images_are_smaller_whoever_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_module, "_PIXELS", 2 * IMAGE[0] * IMAGE[1])
    backend = FakeBackend()
    small = fake_runtime(tmp_path, backend)
    small.encode(small.decode(grids(3)))
    small.generate(n=6, steps=1)
    rows = [rows for graph, rows in backend.calls if graph != "denoiser"]
    assert max(rows) == 2 and sum(rows) == 3 + 3 + 6


def test_a_graph_of_pictures_says_how_large_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend()
    load, pixels = backend.load, {}

    def note(source: GraphSource) -> Any:
        pixels[source.name.split()[0]] = source.pixels
        return load(source)

    monkeypatch.setattr(backend, "load", note)
    runtime = fake_runtime(tmp_path, backend)
    runtime.encode(runtime.generate(n=1, steps=1) and runtime.decode(grids(1)))
    assert pixels == {"denoiser": 0, "decoder": IMAGE[0] * IMAGE[1], "encoder": IMAGE[0] * IMAGE[1]}


def test_a_graph_that_cannot_run_as_asked_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    graphs = {graph: {"fp32": entry(graph), "int8": entry(graph)} for graph in ("denoiser", "decoder", "encoder")}
    graphs["decoder"]["int8"]["requires"] = ["uint8"]
    bundle = Bundle.open(write_bundle(tmp_path, graphs=graphs))
    Runtime(bundle, FakeBackend(), variant="int8").close()
    assert caplog.messages == ["decoder runs in fp32, not int8: fake lacks uint8"]
    caplog.clear()
    Runtime(bundle, FakeBackend(), variant="fp32").close()
    Runtime(bundle, FakeBackend()).close()
    assert caplog.messages == []


def test_a_job_loads_the_graphs_that_it_needs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend()
    load, loaded = backend.load, []

    def note(source: GraphSource) -> Any:
        loaded.append(source.name)
        return load(source)

    monkeypatch.setattr(backend, "load", note)
    runtime = fake_runtime(tmp_path, backend)
    assert loaded == []
    runtime.generate(n=2, steps=1)
    assert sorted(loaded) == ["decoder (fp32)", "denoiser (fp32)"]
    runtime.encode(np.zeros((1, *IMAGE, 3), np.uint8))
    assert loaded[2:] == ["encoder (fp32)"]


def test_denoise_is_one_step(runtime: Runtime) -> None:
    codes, uniform = grids(3), np.random.default_rng(1).random((3, *GRID))
    update = uniform > 0.5
    new, proposal, confidence = runtime.denoise(codes, 0.5, uniform, update)
    assert np.array_equal(new, np.where(update, proposal, codes))
    assert (new.dtype, proposal.dtype, confidence.dtype) == (np.int32, np.int32, np.float32)
    assert confidence.shape == (3, *GRID)
    per_image, _, _ = runtime.denoise(codes, np.full(3, 0.5), uniform, update)
    assert np.array_equal(per_image, new)


def test_denoise_takes_one_label_or_one_for_each(with_labels: Runtime) -> None:
    arguments = grids(2), 1.0, np.zeros((2, *GRID)), np.ones((2, *GRID), bool)
    one = with_labels.denoise(*arguments, label="desert")[0]
    each = with_labels.denoise(*arguments, label=["desert", 2], guidance=np.array([1.0, 1.5]))[0]
    assert np.array_equal(one[0], each[0])
    assert not np.array_equal(one[1], each[1])


def test_logits(runtime: Runtime) -> None:
    codes = grids(9)
    logits = runtime.logits(codes)
    assert logits.shape == (9, *GRID, VOCABULARY)
    assert np.array_equal(logits.argmax(axis=-1), codes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes": np.full((2, *GRID), VOCABULARY)}, "codes must lie from 0 to 99, not 100"),
        ({"codes": np.full((2, *GRID), -1)}, "codes must lie from 0 to 99, not -1"),
        ({"codes": np.zeros((2, *GRID))}, r"codes must be an array of integers of shape \[N,3,4\], not float64"),
        ({"codes": np.zeros(GRID, int)}, r"codes must be an array of integers of shape \[N,3,4\], not int64 \[3, 4\]"),
        ({"codes": np.zeros((0, *GRID), int)}, r"codes must be .*\[0, 3, 4\]"),
        ({"codes": [[1, 2], [3]]}, "codes must be an array"),
        ({"temperature": -1.0}, "temperature must be a finite number of at least 0"),
        ({"temperature": [1.0, float("nan")]}, "temperature must lie from 0 to .*, not nan"),
        ({"temperature": np.array([1, np.inf], np.float16)}, "temperature must lie from 0 to .*, not inf"),
        ({"temperature": [[1.0], [1.0, 2.0]]}, "temperature must be an array"),
        ({"temperature": np.array(1.0)}, "temperature must be a finite number"),
        ({"temperature": "1"}, "temperature must be a finite number"),
        ({"temperature": [1.0] * 3}, r"temperature must be an array of numbers of shape \[2\]"),
        ({"uniform": np.full((2, *GRID), 1.5)}, "uniform must lie from 0 to 1, not 1.5"),
        ({"uniform": np.zeros((1, *GRID))}, r"uniform must be .* of shape \[2,3,4\]"),
        ({"update": np.ones((2, *GRID), int)}, "update must be an array of truth values"),
        ({"label": 0}, "label must be left out"),
        ({"guidance": 2.0}, "guidance must be left out"),
        ({"guidance": np.ones(2)}, "guidance must be left out"),
    ],
)
def test_denoise_names_a_bad_argument(runtime: Runtime, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}") as caught:
        runtime.denoise(**{**ONE_STEP, **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "label must be given: one of coast, desert, ice"),
        ({"label": ["ice"]}, "label must be one, or one for each of 2 rows, not 1"),
        ({"label": ["ice", "ocean"]}, "label must be one of coast, desert, ice, not 'ocean'"),
        ({"label": b"\0\1"}, "label must be a whole number from 0 to 2, not b"),
        ({"label": "ice", "guidance": [1.0]}, r"guidance must be an array of numbers of shape \[2\]"),
        ({"label": "ice", "guidance": 3e38}, "guidance must be a finite number of at least 0 and at most 1e\\+06"),
        ({"label": "ice", "guidance": [1.0, 3e38]}, "guidance must lie from 0 to 1e\\+06, not 3e"),
    ],
)
def test_denoise_names_a_bad_label(with_labels: Runtime, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        with_labels.denoise(**{**ONE_STEP, **changes})


def test_encode_names_bad_images(runtime: Runtime) -> None:
    with pytest.raises(InputError, match=r"^images must be an array of integers of shape \[N,6,8,3\], not uint8"):
        runtime.encode(np.zeros((1, 8, 6, 3), np.uint8))
    with pytest.raises(InputError, match=r"^images must be an array of integers .* not float32"):
        runtime.encode(np.zeros((1, *IMAGE, 3), np.float32))
    with pytest.raises(InputError, match=r"^images must lie from 0 to 255, not 256"):
        runtime.encode(np.full((1, *IMAGE, 3), 256))


# Bundles that hold a part, and variants


@pytest.mark.parametrize(
    ("held", "call", "missing"),
    [
        (("encoder", "decoder"), lambda runtime: runtime.generate(), "denoiser"),
        (("denoiser",), lambda runtime: runtime.generate(), "decoder"),
        (("denoiser",), lambda runtime: runtime.decode(grids(1)), "decoder"),
        (("denoiser",), lambda runtime: runtime.encode(np.zeros((1, 6, 8, 3), np.uint8)), "encoder"),
        (("denoiser",), lambda runtime: runtime.logits(grids(1)), "logits"),
        (("decoder",), lambda runtime: runtime.denoise(**ONE_STEP), "denoiser"),
    ],
)
def test_what_a_bundle_lacks_is_named(tmp_path: Path, held: tuple[str, ...], call: Any, missing: str) -> None:
    runtime = fake_runtime(tmp_path, holds=held, image_size=None if held == ("denoiser",) else IMAGE)
    with pytest.raises(BundleError, match=f"bundle 'fake' has no {missing} graph"):
        call(runtime)


def test_a_variant_is_the_denoisers_and_the_others_where_they_have_it(tmp_path: Path) -> None:
    graphs = {"denoiser": {"int8": entry("denoiser"), "fp32": entry("denoiser")}, "decoder": {"fp32": entry("decoder")}}
    assert fake_runtime(tmp_path, graphs=graphs).variant == "fp32"
    runtime = fake_runtime(tmp_path, graphs=graphs, variant="int8")
    assert runtime.variant == "int8"
    assert len(runtime.generate(n=2)) == 2
    with pytest.raises(BundleError, match=r"denoiser has no variant 'fp16' \(it has int8, fp32\)"):
        fake_runtime(tmp_path, graphs=graphs, variant="fp16")


def test_a_variant_that_the_backend_cannot_run_is_refused(tmp_path: Path) -> None:
    graphs = {"denoiser": {"fp16": entry("denoiser", "cuda", "fake"), "fp8": entry("denoiser", "fake")}}
    assert fake_runtime(tmp_path, graphs=graphs).variant == "fp8"
    with pytest.raises(BackendError, match=r"^the backend 'fake' does not provide cuda, which the variant fp16 of"):
        fake_runtime(tmp_path, graphs=graphs, variant="fp16")


# Graphs that belie their manifest


@pytest.mark.parametrize("vocabulary", [50, 99, 101, 5000])
def test_another_vocabulary_is_refused_before_any_image_is_begun(tmp_path: Path, vocabulary: int) -> None:
    backend = FakeBackend()
    runtime = fake_runtime(tmp_path, backend, vocabulary=vocabulary)
    with pytest.raises(
        BundleError, match=rf"its denoiser knows 100 codes, .* has a vocabulary of {vocabulary}: export"
    ):
        runtime.stream()
    assert len(backend.calls) == 1


def test_an_encoder_of_a_larger_codebook_is_refused(tmp_path: Path) -> None:
    runtime = fake_runtime(tmp_path, holds=("encoder",), vocabulary=50)
    with pytest.raises(BundleError, match=r"its encoder finds the code 60, where its manifest has a codebook of 50"):
        runtime.encode(np.full((1, *IMAGE, 3), 60, np.uint8))


def test_another_grid_is_refused_before_any_image_is_begun(tmp_path: Path) -> None:
    backend = FakeBackend()
    with pytest.raises(
        BundleError, match=r"its denoiser takes codes \[N,12\], where its manifest means \[N,4\]: export"
    ):
        fake_runtime(tmp_path, backend, latent_grid=[2, 2]).generate()
    assert backend.calls == []


def test_labels_that_the_graph_does_not_have_or_need_are_refused(tmp_path: Path) -> None:
    fake_runtime(tmp_path / "with", **labelled())
    fake_runtime(tmp_path / "without")
    manifests = [(tmp_path / folder / "manifest.json") for folder in ("with", "without")]
    texts = [path.read_text() for path in manifests]
    for path, text, other, told in zip(
        manifests, texts, reversed(texts), ("denoiser takes label", "denoiser takes no label"), strict=True
    ):
        swapped = {**json.loads(other), "graphs": json.loads(text)["graphs"]}
        path.write_text(json.dumps(swapped))
        with pytest.raises(BundleError, match=f"its {told}, where its manifest means it to take codes"):
            Runtime(Bundle.open(path.parent), FakeBackend()).stream()


def test_a_graph_that_belies_its_manifest_is_refused(tmp_path: Path) -> None:
    runtime = fake_runtime(tmp_path, vocabulary=50)
    with pytest.raises(
        BundleError, match=r"its logits puts out logits float32 \[1, 12, 100\], where its manifest means"
    ):
        runtime.logits(grids(1) % 50)
