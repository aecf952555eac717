"""How a runtime ends: closed while a graph runs, as the process ends, and in one that was forked."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fakes import ONE_STEP, FakeBackend, fake_runtime, grids
from sundae_rt import SundaeError

PATIENCE = 60


def test_close_waits_for_the_graph_that_another_thread_runs_and_refuses_the_next(tmp_path: Path) -> None:
    backend, inside, go_on = FakeBackend(), threading.Event(), threading.Event()
    runtime = fake_runtime(tmp_path, backend)
    runtime.decode(grids(1))
    told: list[str] = []

    def wait(graph: str) -> None:
        inside.set()
        assert go_on.wait(PATIENCE)

    def decode() -> None:
        try:
            runtime.decode(grids(20))  # three runs
        except SundaeError as error:
            told.append(str(error))

    backend.before_run = wait
    decoding, closing = threading.Thread(target=decode), threading.Thread(target=runtime.close)
    decoding.start()
    assert inside.wait(PATIENCE)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    go_on.set()
    for thread in (closing, decoding):
        thread.join(PATIENCE)
    assert told == ["the runtime is closed"]
    assert backend.calls == [("decoder", 1), ("decoder", 8)]


def test_who_closes_from_within_a_run_does_not_wait_for_itself(tmp_path: Path) -> None:
    backend = FakeBackend()
    runtime = fake_runtime(tmp_path, backend)
    runtime.decode(grids(1))
    backend.before_run = lambda graph: runtime.close()  # as a signal's handler may
    assert len(runtime.decode(grids(2))) == 2
    with pytest.raises(SundaeError, match=r"^the runtime is closed$"):
        runtime.denoise(**ONE_STEP)


CLOSED_WHILE_IT_LOADS = """
import sys, threading
from pathlib import Path
from fakes import FakeBackend, fake_runtime, grids
backend = FakeBackend()
runtime, load = fake_runtime(Path(sys.argv[1]), backend), backend.load
def decode():
    try:
        runtime.decode(grids(1))
    except Exception as error:
        sys.stdout.write(f"{error}\\n")  # at once, as print does not, for two threads come here together
other = threading.Thread(target=decode)
def close_meanwhile(source):
    other.start()
    other.join(0.1)  # it waits for the same graph
    runtime.close()
    return load(source)
backend.load = close_meanwhile
decode()
other.join()
"""


def test_who_closes_while_it_loads_does_not_wait_for_who_waits_for_that(tmp_path: Path) -> None:
    done = script(CLOSED_WHILE_IT_LOADS, tmp_path)
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, 2 * ["the runtime is closed"], "")


def script(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs Python code beside this file, with a folder as its argument."""
    return subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=Path(__file__).parent,
    )


DECODING = """
import threading
import numpy as np, sundae_rt
runtime = sundae_rt.load(backend="cpu", variant="fp32")
codes, under_way = np.zeros((8, 16, 16), np.int32), threading.Event()
def decode():
    while True:
        runtime.decode(codes)
        under_way.set()
threading.excepthook = lambda told: None
threading.Thread(target=decode, daemon=True).start()
under_way.wait()
print("the end")
"""


def test_a_process_ends_well_while_a_graph_runs(tmp_path: Path) -> None:
    done = script(DECODING, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the end\n", "")


LATE = """
import sys, threading
from pathlib import Path
from fakes import fake_runtime
runtime, main = fake_runtime(Path(sys.argv[1])), threading.main_thread()
def generate():
    main.join()
    print(len(runtime.generate(n=3)))
threading.Thread(target=generate).start()
"""


def test_a_thread_that_outlives_the_main_one_may_be_the_first_to_use_a_runtime(tmp_path: Path) -> None:
    done = script(LATE, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


FORKED = """
import os, sys, threading, warnings
from pathlib import Path
from fakes import FakeBackend, fake_runtime, grids
from sundae_rt import SundaeError
warnings.simplefilter("ignore")  # that other threads run
threading.excepthook = lambda told: None  # what the exit ends
backend, under_way, ended = FakeBackend(), threading.Event(), threading.Event()
def wait(graph):
    under_way.set()
    ended.wait()
runtime = fake_runtime(Path(sys.argv[1]), backend)
runtime.generate()
stream = runtime.stream(n=40)
next(stream)
backend.before_run = wait
threading.Thread(target=runtime.generate, daemon=True).start()
under_way.wait()
child = os.fork()
if child == 0:
    for call in (runtime.generate, lambda: next(stream), lambda: runtime.decode(grids(1))):
        try:
            call()
        except SundaeError as error:
            print(error, flush=True)
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
ended.set()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_is_told_to_load_its_own_and_ends_well(tmp_path: Path) -> None:
    done = script(FORKED, tmp_path)
    refusal = "the runtime was loaded before this process was forked: load it here, or start by spawn\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, 3 * refusal + "7\n", "")
