"""What all commands share: help, exit codes, one line for every failure, pipes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import sundae_rt
from fakes import write_bundle
from processes import SLOW, process
from sundae_rt.errors import BundleError

# Help


def test_help_names_every_command(run: Any) -> None:
    result = run("--help")
    assert result.code == 0
    for command in ("generate", "inpaint", "encode", "train", "export", "info"):
        assert any(line.split()[:1] == [command] for line in result.out)


@pytest.mark.parametrize("command", ["generate", "inpaint", "encode", "train vqgan", "train prior", "export", "info"])
def test_every_command_has_help(command: str, run: Any) -> None:
    result = run(*command.split(), "--help")
    assert result.code == 0
    assert result.out[0].startswith(f"Usage: sundae-rt {command}")


def test_python_m_is_the_same_program(tmp_path: Path) -> None:
    with process("--version", cwd=tmp_path) as program:
        assert program.communicate() == (f"sundae-rt {sundae_rt.__version__}\n", "")
        assert program.returncode == 0


def test_no_command_shows_help_and_is_wrong_usage(run: Any) -> None:
    result = run()
    assert result.code == 2
    assert any("Commands:" in line for line in result.err)


@pytest.mark.parametrize(("arguments", "told"), [(("generat",), "generat"), (("generate", "--step", "3"), "--step")])
def test_a_mistyped_word_is_named_in_one_line(arguments: tuple[str, ...], told: str, run: Any) -> None:
    result = run(*arguments)
    assert (result.code, len(result.err)) == (2, 1)
    assert told in result.err[0]


# Pipes and files


def test_a_reader_that_leaves_early_causes_no_noise(tmp_path: Path) -> None:
    write_bundle(tmp_path / "fake")
    reading, writing = os.pipe()
    os.close(reading)
    with process("info", "fake", cwd=tmp_path, stdout=writing) as program:
        os.close(writing)
        _, err = program.communicate()
    assert err == ""


def test_a_file_that_cannot_be_opened_is_named(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Any) -> None:
        raise PermissionError(13, "Permission denied", "some/file")

    monkeypatch.setattr("sundae_rt.engines.resolve", refuse)
    result = run("info", "fake")
    assert (result.code, result.err) == (1, ["sundae-rt: some/file: Permission denied"])


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "out of memory"),
        (MemoryError("Unable to allocate 9 TiB"), "out of memory: Unable to allocate 9 TiB"),
        (BundleError("odd: the graph '\x1b[2J' is\nno graph"), "odd: the graph '?[2J' is no graph"),
    ],
)
def test_every_failure_is_one_printable_line(
    error: Exception, told: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Any) -> None:
        raise error

    monkeypatch.setattr("sundae_rt.engines.resolve", fail)
    result = run("info", "fake")
    assert (result.code, result.out, result.err) == (1, [], [f"sundae-rt: {told}"])


def test_a_file_name_that_is_no_text_causes_no_traceback(tmp_path: Path) -> None:
    write_bundle(tmp_path / "fake")
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    out = os.fsdecode(b"o\xff")
    with process("generate", "--bundle", "fake", "--out", out, cwd=tmp_path, code=SLOW, env=strict) as program:
        told, err = program.communicate()
    assert program.returncode == 0, err
    assert r"in o\udcff, " in told
