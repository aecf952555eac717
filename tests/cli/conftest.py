"""The command line in this process, on a backend without a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fakes import FakeBackend, write_bundle
from sundae_rt import cli


@dataclass(frozen=True, slots=True)
class Result:
    """What a command left: its exit code, and the lines of stdout and stderr."""

    code: int
    out: list[str]
    err: list[str]


Run = Callable[..., Result]


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    """The one backend that any name opens."""
    fake = FakeBackend()
    monkeypatch.setattr("sundae_rt.choice.open_backend", lambda name, threads: fake)
    return fake


@pytest.fixture
def run(
    backend: FakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run a command in `tmp_path`, where the bundle `fake` lies; the arguments may be of any type."""
    monkeypatch.chdir(tmp_path)
    write_bundle(tmp_path / "fake")

    def command(*arguments: Any) -> Result:
        capsys.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out.splitlines(), captured.err.splitlines())

    return command
