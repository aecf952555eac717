"""The progress bar: images done, images/s and time left on a terminal, one line elsewhere."""

from __future__ import annotations

import re
import sys

import pytest

from sundae_rt.cli.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in its first element."""
    now = [100.0]
    monkeypatch.setattr("sundae_rt.cli.progress.time.monotonic", lambda: now[0])
    return now


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)


def frames(text: str) -> list[str]:
    return [frame.replace("\x1b[K", "") for frame in text.split("\r")[1:]]


def test_a_terminal_shows_done_speed_and_time_left(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    on_terminal(monkeypatch)
    with Progress(8) as progress:
        for _ in range(8):
            clock[0] += 20
            progress.advance()
    shown = frames(capfd.readouterr().err)
    assert shown[0] == "[------------------------] 0/8 images, 0.00 images/s, ..."
    assert shown[2] == "[######------------------] 2/8 images, 0.05 images/s, 2:00 left"
    assert shown[8] == "[########################] 8/8 images, 0.05 images/s, 0:00 left\n"


def test_it_draws_at_most_ten_times_a_second_and_always_the_last(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    on_terminal(monkeypatch)
    with Progress(1000) as progress:
        for _ in range(1000):
            clock[0] += 0.001
            progress.advance()
    shown = frames(capfd.readouterr().err)
    assert len(shown) <= 13
    assert "1000/1000" in shown[-1]


def test_long_waits_are_told_in_hours(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    on_terminal(monkeypatch)
    with Progress(101) as progress:
        clock[0] += 60
        progress.advance()
    assert "1:40:00 left" in capfd.readouterr().err


def test_elsewhere_there_is_one_line_at_the_end(clock: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    with Progress(2) as progress:
        for _ in range(2):
            clock[0] += 1
            progress.advance()
    assert capfd.readouterr().err == "2/2 images, 1.00 images/s\n"


def test_elsewhere_a_failed_run_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), Progress(2):
        raise KeyError
    assert not re.search(".", capfd.readouterr().err)


def test_without_any_stderr_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)  # as Python has it when the caller closed it
    with Progress(1) as progress:
        progress.advance()
    assert progress.done == 1
