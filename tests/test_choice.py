"""What `auto` takes: timings before the rule, the rule before nothing, and what is asked for before either."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from fakes import ALL_GRAPHS, FakeBackend, FakeGraph, entry, write_bundle
from sundae_rt import backends
from sundae_rt.backends import timings
from sundae_rt.backends.source import GraphSource
from sundae_rt.backends.timings import Timing
from sundae_rt.bundle import Bundle
from sundae_rt.choice import choose_backend, choose_variant, runnable
from sundae_rt.errors import BackendError, BundleError, InputError
from sundae_rt.runtime import Runtime


def backend(name: str, *variants: str, derives: Mapping[str, str] | None = None, **attributes: object) -> FakeBackend:
    made = FakeBackend()
    vars(made).update(name=name, variants=variants, derives=derives or {}, provides=frozenset({name}), **attributes)
    return made


def missing(threads: int | None) -> backends.Backend:
    raise BackendError("gone: its library is missing: pip install it")


CHIP = backend("chip", "tiny", "half", derives={"tiny": "int8", "half": "fp32"})
PLAIN = backend("plain", "fp32")
IDLE = backend("idle")


@pytest.fixture(autouse=True)
def present(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, object]]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    known = {
        "gone": missing,
        "idle": lambda threads: IDLE,
        "chip": lambda threads: CHIP,
        "plain": lambda threads: PLAIN,
    }
    monkeypatch.setattr(backends, "_BACKENDS", known)
    yield known


def bundle(folder: Path, *variants: str, **options: object) -> Bundle:
    held = {graph: {name: entry(graph) for name in variants or ("fp32",)} for graph in ALL_GRAPHS}
    return Bundle.open(write_bundle(folder, graphs=held, **options))


# By the rule


def test_auto_takes_the_first_backend_that_is_there_for_what_the_bundle_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert choose_backend(bundle(tmp_path), "auto", "auto", None) == (CHIP, "auto")
    said = "auto picked the backend chip; gone: its library is missing: pip install it; idle: no faster than the others"
    assert said in caplog.text


def test_auto_passes_over_a_backend_that_is_there_for_other_variants(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, present: dict[str, object]
) -> None:
    caplog.set_level(logging.INFO)
    present["chip"] = lambda threads: backend("chip", "fp8", "fp4")
    assert choose_backend(bundle(tmp_path), "auto", "auto", None)[0] is PLAIN
    assert "chip: fake has none of its variants (fp8, fp4)" in caplog.text


def test_auto_passes_over_a_backend_that_cannot_run_one_of_the_graphs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, present: dict[str, object]
) -> None:
    caplog.set_level(logging.INFO)
    present["plain"] = lambda threads: sharp
    sharp = backend("plain", "fp32")
    sharp.provides = frozenset({"uint8"})
    held = {graph: {"fp32": entry(graph, *(["uint8"] if graph == "decoder" else []))} for graph in ALL_GRAPHS}
    chosen, _ = choose_backend(Bundle.open(write_bundle(tmp_path, graphs=held)), "auto", "auto", None)
    assert chosen is sharp
    assert "chip: the backend 'chip' does not provide uint8" in caplog.text


@pytest.mark.parametrize(("wanted", "taken"), [("fp32", PLAIN), ("half", CHIP), ("tiny", CHIP), ("int8", IDLE)])
def test_auto_takes_a_backend_for_the_variant_that_is_asked_for(
    tmp_path: Path, wanted: str, taken: FakeBackend
) -> None:
    """`int8` is what none of them is there for, but the first that is present can run it."""
    assert choose_backend(bundle(tmp_path, "fp32", "int8"), "auto", wanted, None) == (taken, wanted)


def test_what_is_asked_for_is_never_replaced(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"^gone: its library is missing"):
        choose_backend(bundle(tmp_path), "gone", "auto", None)
    assert choose_backend(bundle(tmp_path), "idle", "auto", None) == (IDLE, "auto")


def test_auto_without_any_says_what_each_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_BACKENDS", {"gone": missing})
    with pytest.raises(BackendError, match=r"^no backend is there to take: gone: its library is missing"):
        choose_backend(bundle(tmp_path), "auto", "auto", None)


def test_an_unknown_backend_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^backend must be one of auto, gone, idle, chip, plain, not \['cpu'\]$"):
        choose_backend(bundle(tmp_path), ["cpu"], "auto", None)  # type: ignore[arg-type]


# Variants


def test_a_backend_derives_variants_of_all_graphs_but_the_encoder(tmp_path: Path) -> None:
    manifest = bundle(tmp_path, "fp32", "int8").manifest
    chosen = {graph: choose_variant(manifest, graph, CHIP, "auto") for graph in ALL_GRAPHS}
    assert {graph: (variant.name, variant.source) for graph, variant in chosen.items()} == {
        "denoiser": ("tiny", "int8"),
        "decoder": ("tiny", "int8"),
        "logits": ("tiny", "int8"),
        "encoder": ("fp32", "fp32"),
    }
    assert list(runnable(manifest, CHIP)) == ["tiny", "half", "fp32", "int8"]
    assert list(runnable(manifest, PLAIN)) == ["fp32", "int8"]


def test_a_derived_variant_needs_the_one_it_is_derived_from(tmp_path: Path) -> None:
    manifest = bundle(tmp_path, "fp32").manifest
    assert choose_variant(manifest, "denoiser", CHIP, "auto").name == "half"
    with pytest.raises(BundleError, match=r"no variant 'tiny' \(it has half, fp32\)$"):
        choose_variant(manifest, "denoiser", CHIP, "tiny")


def test_what_a_bundle_holds_itself_is_not_derived(tmp_path: Path) -> None:
    assert choose_variant(bundle(tmp_path, "fp32", "half").manifest, "denoiser", CHIP, "half").derived is None


def test_what_a_bundle_holds_for_another_backend_alone_is_derived(tmp_path: Path) -> None:
    graphs = {"denoiser": {"fp32": entry("denoiser"), "half": entry("denoiser", "cuda")}}
    manifest = Bundle.open(write_bundle(tmp_path, graphs=graphs)).manifest
    assert choose_variant(manifest, "denoiser", CHIP, "half").derived == "half"
    with pytest.raises(BackendError, match=r"'plain' does not provide cuda, which the variant half of denoiser"):
        choose_variant(manifest, "denoiser", PLAIN, "half")


def test_a_graph_that_is_never_derived_does_without_what_another_backend_has_for_it(tmp_path: Path) -> None:
    """A bundle with halves for GPUs runs on a backend that derives its own, with the encoder in fp32."""
    graphs = {graph: {"fp32": entry(graph), "half": entry(graph, "cuda")} for graph in ALL_GRAPHS}
    manifest = Bundle.open(write_bundle(tmp_path, graphs=graphs)).manifest
    for wanted in ("auto", "half"):
        assert choose_variant(manifest, "denoiser", CHIP, wanted).derived == "half"
        assert choose_variant(manifest, "encoder", CHIP, wanted).name == "fp32"


def test_the_backend_is_told_what_to_derive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[str, str | None]] = []
    told = {}
    chip = backend("chip", "half", derives={"half": "fp32"})
    load = chip.load

    def note(source: GraphSource) -> FakeGraph:
        loaded.append((source.name, source.derived))
        return load(source)

    monkeypatch.setattr(chip, "load", note)
    for wanted in ("auto", "fp32"):
        loaded.clear()
        runtime = Runtime(Bundle.open(write_bundle(tmp_path)), chip, variant=wanted)
        runtime.encode(runtime.decode(runtime.generate(1)[0].codes[None]))
        told[wanted] = sorted(loaded)
    assert told["auto"] == [("decoder (half)", "half"), ("denoiser (half)", "half"), ("encoder (fp32)", None)]
    assert told["fp32"] == [("decoder (fp32)", None), ("denoiser (fp32)", None), ("encoder (fp32)", None)]


# By what was timed


def remember(bundle: Bundle, *measured: tuple[str, str, float]) -> None:
    timings.remember(bundle.fingerprint, None, [Timing(*values) for values in measured])


def test_auto_takes_what_was_timed_as_the_fastest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    timed = bundle(tmp_path, "fp32", "int8")
    remember(timed, ("chip", "tiny", 2.0), ("plain", "int8", 1.0), ("chip", "half", 3.0))
    assert choose_backend(timed, "auto", "auto", None) == (PLAIN, "int8")
    assert "auto picked the backend plain and the variant int8, the fastest when timed (1 s an image)" in caplog.text


def test_what_is_asked_for_narrows_what_was_timed(tmp_path: Path) -> None:
    timed = bundle(tmp_path, "fp32", "int8")
    remember(timed, ("plain", "int8", 1.0), ("plain", "fp32", 2.0), ("chip", "half", 3.0), ("chip", "fp32", 4.0))
    assert choose_backend(timed, "chip", "auto", None) == (CHIP, "half")
    assert choose_backend(timed, "auto", "fp32", None) == (PLAIN, "fp32")
    assert choose_backend(timed, "chip", "fp32", None) == (CHIP, "fp32")
    assert choose_backend(timed, "auto", "tiny", None) == (CHIP, "tiny")  # never timed: by the rule


def test_a_winner_that_is_gone_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    timed = bundle(tmp_path)
    remember(timed, ("gone", "fp32", 1.0), ("plain", "int8", 2.0), ("idle", "fp32", 3.0))
    assert choose_backend(timed, "auto", "auto", None) == (IDLE, "fp32")
    assert "gone, which was the fastest, is no longer present: gone: its library is missing" in caplog.text


def test_another_bundle_is_chosen_for_by_the_rule(tmp_path: Path) -> None:
    remember(bundle(tmp_path / "a", name="a"), ("plain", "fp32", 1.0))
    assert choose_backend(bundle(tmp_path / "b", name="b"), "auto", "auto", None) == (CHIP, "auto")
