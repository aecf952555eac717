"""Ctrl-C, wherever it comes, and SIGTERM: one line, exit code 130, and every finished image whole."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fakes import IMAGE, FakeBackend, write_bundle
from processes import SLOW, process
from sundae_rt.cli.interrupts import held_back, terminate_gently


def until(condition: Callable[[], Any]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("it took too long")


def interrupt(*arguments: str, cwd: Path, once: Callable[[], Any], by: int = signal.SIGINT) -> tuple[int, str]:
    with process(*arguments, cwd=cwd, code=SLOW) as program:
        until(once)
        program.send_signal(by)
        _, err = program.communicate(timeout=30)
        return program.returncode, err


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_keep_every_finished_image_whole_and_say_how_many(by: int, tmp_path: Path) -> None:
    write_bundle(tmp_path / "fake")
    out = tmp_path / "out"
    code, err = interrupt(
        *("generate", "--bundle", "fake", "--n", "5000", "--out", "out"),
        cwd=tmp_path,
        once=lambda: out.is_dir() and len(list(out.glob("0*.png"))) > 3,
        by=by,
    )
    assert code == 130
    told = re.fullmatch(r"sundae-rt: interrupted: (\d+) of 5000 images are in out\n", err)
    assert told is not None, err
    names = sorted(path.name for path in out.iterdir())
    assert all(re.fullmatch(r"\d{6}\.png", name) for name in names)
    assert len(names) - int(told[1]) in (0, 1)  # the last may have been renamed but not counted
    for name in names:
        with Image.open(out / name) as image:
            assert image.convert("RGB").size == IMAGE[::-1]


def test_ctrl_c_in_an_inpainting_keeps_every_finished_picture(tmp_path: Path) -> None:
    write_bundle(tmp_path / "fake")
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    Image.new("L", (8, 8), 255).save(tmp_path / "mask.png")
    code, err = interrupt(
        *(
            "inpaint",
            "image.png",
            "mask.png",
            "--bundle",
            "fake",
            "--n",
            "5000",
            "--batch-size",
            "2",
            "-o",
            "out/a.png",
        ),
        cwd=tmp_path,
        once=lambda: (tmp_path / "out" / "a-1.png").exists(),
    )
    assert code == 130
    assert re.search(r"^sundae-rt: interrupted: \d+ of 5000 images are in out/a-\*\.png$", err, re.MULTILINE)
    assert all(re.fullmatch(r"a-\d+\.png", path.name) for path in (tmp_path / "out").iterdir())


def test_ctrl_c_anywhere_else_is_one_line_too(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sundae_rt.engines.resolve", interrupted)
    result = run("info", "fake")
    assert (result.code, [line for line in result.err if line]) == (130, ["sundae-rt: interrupted"])


@pytest.mark.parametrize("loading", ["click", "sundae_rt.cli.generate", "numpy", "PIL", "sundae_rt.runtime"])
def test_ctrl_c_while_the_program_loads_is_one_line(loading: str, tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {loading!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from sundae_rt.__main__ import main
main()
"""
    write_bundle(tmp_path / "fake")
    with process("generate", "--bundle", "fake", cwd=tmp_path, code=code) as program:
        out, err = program.communicate(timeout=60)
    assert (program.returncode, out) == (130, "")
    assert re.fullmatch(r"\n?sundae-rt: interrupted.*\n", err), err


def test_ctrl_c_is_not_lost_while_a_library_is_loaded(
    run: Any, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swallow(name: str, threads: int | None) -> FakeBackend:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        return backend

    monkeypatch.setattr("sundae_rt.choice.open_backend", swallow)
    result = run("generate", "--bundle", "fake")
    assert (result.code, result.err) == (130, ["sundae-rt: interrupted: 0 of 1 images are in samples"])
    assert backend.calls == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_stays_ignored_where_it_was(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(path: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return Path(path)

    monkeypatch.setattr("sundae_rt.engines.resolve", interrupt)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for a job in a shell's background
    try:
        assert run("generate", "--bundle", "fake").code == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_that_was_held_back_comes_whatever_else_the_block_raised() -> None:
    with pytest.raises(KeyboardInterrupt), held_back():
        os.kill(os.getpid(), signal.SIGINT)
        raise ValueError("something else")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_sigterm_stays_as_it_was_where_ctrl_c_is_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for a job in a shell's background
    try:
        terminate_gently()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)
