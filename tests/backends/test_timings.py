"""The file of timings: kept for one bundle, processor and set of versions; whatever is wrong with it is passed over."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from sundae_rt.backends import driver, timings
from sundae_rt.backends.driver import Device
from sundae_rt.backends.timings import Timing, recall, remember
from sundae_rt.errors import InputError

FAST, SLOW = Timing("openvino", "bf16", 0.5), Timing("cpu", "fp32", 1.5)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_timings_come_back_fastest_first(cache: Path) -> None:
    assert recall("a", None) == []
    remember("a", None, [SLOW, FAST])
    assert timings.path() == cache / "sundae-rt" / "timings.json"
    assert recall("a", None) == [FAST, SLOW]
    assert recall("b", None) == []


def test_a_bundle_has_one_entry_and_may_be_forgotten() -> None:
    remember("b", None, [FAST])
    remember("a", None, [FAST])
    remember("a", None, [SLOW])
    assert recall("a", None) == [SLOW]
    remember("a", None, [])
    assert recall("a", None) == []
    assert recall("b", None) == [FAST]


@pytest.mark.parametrize(
    ("name", "value"),
    [("processor_name", lambda: "another"), ("instructions", lambda: frozenset({"mmx"}))],
)
def test_another_processor_finds_nothing_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, value: object
) -> None:
    caplog.set_level(logging.INFO)
    remember("a", None, [FAST])
    monkeypatch.setattr(timings, name, value)
    assert recall("a", None) == []
    assert "are of another processor, GPU, number of threads or version" in caplog.text


def test_what_another_machine_with_the_same_home_has_timed_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    remember("a", None, [FAST])
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(timings, "processor_name", lambda: "another")
        remember("a", None, [SLOW])
        assert recall("a", None) == [SLOW]
    assert recall("a", None) == [FAST]


def test_another_gpu_or_driver_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus, cuda = [Device("Fake 1", "8.9", 2**34)], "13.0"
    monkeypatch.setattr(driver, "load_library", lambda: None)
    monkeypatch.setattr(driver, "devices", lambda library: gpus)
    monkeypatch.setattr(driver, "version", lambda library: cuda)
    remember("a", None, [FAST])
    assert recall("a", None) == [FAST]
    gpus = [Device("Fake 2", "8.9", 2**34)]
    assert recall("a", None) == []
    gpus, cuda = [Device("Fake 1", "8.9", 2**34)], "13.1"
    assert recall("a", None) == []
    cuda = "13.0"
    assert recall("a", None) == [FAST]


def test_no_driver_is_asked_for_a_bundle_that_was_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    remember("a", None, [FAST])
    monkeypatch.setattr(driver, "load_library", lambda: pytest.fail("asked"))
    assert recall("b", None) == []


def test_another_version_of_a_library_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    remember("a", None, [FAST])
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0")
    assert recall("a", None) == []


def test_timings_hold_for_their_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timings, "available_cores", lambda: 3)
    remember("a", 3, [FAST])
    assert recall("a", None) == recall("a", 3) == [FAST]
    assert recall("a", 2) == []


GOOD = {"backend": "cpu", "variant": "fp32", "seconds": 1.0}


def content(*, key: str = '["a"]', format: object = 1, **changes: object) -> str:
    return json.dumps({"format": format, "entries": {key: [GOOD | changes]}})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        "{}",
        "1",
        json.dumps({"format": 1}),
        json.dumps({"format": 1, "entries": []}),
        json.dumps({"format": 1, "entries": {'["a"]': GOOD}}),
        json.dumps({"format": 1, "entries": {'["a"]': [[]]}}),
        content(format=2),
        content(key="a"),
        content(key="[]"),
        content(key="[1]"),
        content(seconds="fast"),
        content(seconds=-1.0),
        content(seconds=float("nan")),
        content(backend=None),
        content(colour="red"),
    ],
)
def test_a_file_that_is_not_right_is_passed_over_with_a_line_and_replaced(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    timings.path().parent.mkdir()
    timings.path().write_text(text)
    assert recall("a", None) == []
    (record,) = caplog.records
    assert record.getMessage().startswith(f"passed over {timings.path()}, where timings would be: ")
    remember("a", None, [FAST])
    assert recall("a", None) == [FAST]


def test_a_file_that_cannot_be_read_is_passed_over_and_one_that_cannot_be_written_is_an_error() -> None:
    timings.path().mkdir(parents=True)
    assert recall("a", None) == []
    with pytest.raises(InputError, match=r"timings\.json: it exists and is not a regular file"):
        remember("a", None, [FAST])


def test_the_cache_folder_is_the_platforms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    for system, folder in {"linux": ".cache", "darwin": "Library/Caches", "win32": "local"}.items():
        monkeypatch.setattr("sys.platform", system)
        assert timings.path() == tmp_path / folder / "sundae-rt" / "timings.json"
