"""Progress of a run on stderr: images done, images/s, time left."""

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import click

from sundae_rt.cli import INTERRUPTED

_BAR = 24
_INTERVAL = 0.1  # seconds between two drawings of the bar


class Progress:
    """A bar that redraws itself on a terminal; elsewhere one line at the end of a run that went well.

    Use it as a context manager and call `advance` for each image that is finished.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._is_terminal = sys.stderr is not None and sys.stderr.isatty()  # None: it was closed by the caller
        self._start = time.monotonic()
        self._drawn = -_INTERVAL

    @property
    def total(self) -> int:
        """Images of the whole run."""
        return self._total

    @property
    def done(self) -> int:
        """Images finished so far."""
        return self._done

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def rate(self) -> float:
        """Images per second so far."""
        return self._done / max(self.seconds, 1e-9)

    def advance(self) -> None:
        """One more image is finished."""
        self._done += 1
        if self._is_terminal and (self.seconds - self._drawn >= _INTERVAL or self._done == self._total):
            self._draw()

    def __enter__(self) -> Self:
        if self._is_terminal:
            self._draw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_terminal:
            click.echo(err=True)
        elif error is None:
            click.echo(self._counts(), err=True)

    def _draw(self) -> None:
        self._drawn = self.seconds
        filled = _BAR * self._done // self._total
        left = f"{_duration((self._total - self._done) / self.rate)} left" if self._done else "..."
        bar = "#" * filled + "-" * (_BAR - filled)
        click.echo(f"\r[{bar}] {self._counts()}, {left}\x1b[K", nl=False, err=True)

    def _counts(self) -> str:
        return f"{self._done}/{self._total} images, {self.rate:.2f} images/s"


def interrupted(progress: Progress, where: Path) -> click.exceptions.Exit:
    """Say how far an interrupted run came, and return what ends the program."""
    click.echo(f"sundae-rt: interrupted: {progress.done} of {progress.total} images are in {where}", err=True)
    return click.exceptions.Exit(INTERRUPTED)


def summary(progress: Progress, where: Path, backend: str, variant: str) -> str:
    """The last line of a run that went well."""
    images = "1 image" if progress.done == 1 else f"{progress.done} images"
    speed = f"{progress.seconds:.1f} s ({progress.rate:.2f} images/s)"
    return f"{images} in {speed}, in {where}, backend {backend}, variant {variant}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
