"""`sundae-rt bench`: a line for each backend and variant, and the fastest remembered for `auto`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import sundae_rt
from fakes import FakeBackend, entry, labelled, write_bundle
from sundae_rt import backends
from sundae_rt.backends import timings
from sundae_rt.backends.source import GraphSource
from sundae_rt.bundle import Bundle
from sundae_rt.errors import BackendError


class Clock:
    """The only time there is: it goes on when a graph runs, and slower the first time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed(FakeBackend):
    """A backend whose graphs take `seconds` a run, by the name of the variant, and 10 s more at their first."""

    def __init__(self, clock: Clock, name: str, **seconds: float) -> None:
        super().__init__()
        self.name, self._clock, self._seconds = name, clock, seconds
        self.derives = {"half": "fp32"} if "half" in seconds else {}
        self.fault: str | None = None

    def load(self, source: GraphSource) -> Any:
        self._clock.now += 10
        graph = super().load(source)
        run = graph.run

        def timed(inputs: Any) -> Any:
            if self.fault is not None:
                raise BackendError(self.fault)
            self._clock.now += self._seconds[source.derived or "fp32"]
            return run(inputs)

        graph.run = timed  # type: ignore[method-assign]
        return graph


@pytest.fixture(autouse=True)
def present(backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Timed]:
    """A backend that is quick at `half`, which it derives, one that is quick at nothing, and one that is not here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    clock = Clock()
    quick, slow = Timed(clock, "quick", fp32=4.0, half=1.0), Timed(clock, "slow", fp32=8.0)
    known: dict[str, Any] = {"gone": missing, "quick": lambda threads: quick, "slow": lambda threads: slow}
    monkeypatch.setattr(backends, "_BACKENDS", known)
    monkeypatch.setattr("sundae_rt.choice.open_backend", backends.open_backend)  # and not what `backend` made of it
    monkeypatch.setattr("sundae_rt.cli.bench.perf_counter", clock)
    return {"quick": quick, "slow": slow}


def recalled(bundle: str) -> list[timings.Timing]:
    return timings.recall(Bundle.open(bundle).fingerprint, None)


def missing(threads: int | None) -> Any:
    raise BackendError("gone: its library is missing: pip install it")


def test_every_backend_and_variant_has_a_line_and_the_fastest_is_remembered(run: Any) -> None:
    result = run("bench", "--bundle", "fake", "--batch-size", 2)
    assert (result.code, result.err) == (0, [])
    # A step of the batch of 2 takes 1, 4 or 8 s, and so does decoding it; an image has 6 steps. The check of the
    # denoiser's vocabulary, a run, is part of loading it.
    assert [line.split() for line in result.out] == [
        ["backend", "variant", "load,", "s", "step,", "ms", "decode,", "ms", "images/s"],
        ["gone", "not", "run:", "its", "library", "is", "missing:", "pip", "install", "it"],
        ["quick", "half", "21.00", "500.00", "500.00", "0.286"],
        ["quick", "fp32", "24.00", "2000.00", "2000.00", "0.071"],
        ["slow", "fp32", "28.00", "4000.00", "4000.00", "0.036"],
        f"auto takes quick with half for fake here: {timings.path()}".split(),
    ]
    with sundae_rt.load("fake") as runtime:
        assert (runtime.backend, runtime.variant) == ("quick", "half")
    assert [(timing.backend, timing.variant, timing.seconds) for timing in recalled("fake")] == [
        ("quick", "half", 3.5),
        ("quick", "fp32", 14.0),
        ("slow", "fp32", 28.0),
    ]


def test_what_was_timed_can_be_forgotten(run: Any) -> None:
    run("bench", "--bundle", "fake", "--batch-size", 2)
    assert run("bench", "--bundle", "fake", "--forget").out == ["forgot what was timed for fake"]
    assert recalled("fake") == []


def test_labels_and_bundles_of_one_half_are_timed_too(run: Any) -> None:
    for name, changes in {
        "labelled": labelled(),
        "codec": {"holds": ("decoder", "encoder")},
        "prior": {"holds": ("denoiser",), "image_size": None},
    }.items():
        write_bundle(Path(name), name=name, **changes)
        result = run("bench", "--bundle", name, "--batch-size", 2)
        assert (result.code, len(result.out)) == (0, 6), name


def test_a_variant_that_fails_keeps_its_line(run: Any, present: dict[str, Timed]) -> None:
    present["slow"].fault = "slow: its memory is full"
    result = run("bench", "--bundle", "fake", "--batch-size", 2)
    assert result.code == 0
    assert result.out[-2] == "slow      fp32       not run: its memory is full"


def test_no_engine_is_built_for_a_timing_and_the_line_says_what_builds_it(
    run: Any, present: dict[str, Timed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(present["slow"], "is_built", lambda origin: False)
    result = run("bench", "--bundle", "fake", "--batch-size", 2)
    told = "slow      fp32       not run: no engine is built: sundae-rt build --bundle fake --precision fp32"
    assert (result.code, result.out[-2]) == (0, told)


def test_a_variant_that_no_backend_can_run_is_an_error_of_one_line(run: Any) -> None:
    write_bundle(Path("far"), graphs={"denoiser": {"fp32": entry("denoiser", "mars")}})
    result = run("bench", "--bundle", "far", "--batch-size", 2)
    assert (result.code, len(result.err)) == (1, 1)
    assert "no backend here runs fake" in result.err[0]
    assert not timings.path().exists()


def test_a_bundle_with_nothing_to_time_says_so(run: Any) -> None:
    write_bundle(Path("eyes"), holds=("encoder",))
    refused = run("bench", "--bundle", "eyes")
    assert (refused.code, refused.err) == (
        1,
        ["sundae-rt: fake has nothing to time: neither a denoiser nor a decoder"],
    )


@pytest.mark.parametrize("seconds", ["nan", "inf", "0"])
def test_seconds_that_never_end_or_begin_are_refused(seconds: str, run: Any) -> None:
    refused = run("bench", "--bundle", "fake", "--seconds", seconds)
    assert (refused.code, len(refused.err)) == (2, 1)
    assert "--seconds" in refused.err[0]
