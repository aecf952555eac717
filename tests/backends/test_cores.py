"""The cores of a backend: never more are held than there are, and who came first is served first."""

from __future__ import annotations

import threading

import pytest

from sundae_rt.backends.cores import Cores


def test_never_more_are_held_than_there_are() -> None:
    cores, lock = Cores(3), threading.Lock()
    held, most = 0, 0

    def work(wanted: int) -> None:
        nonlocal held, most
        for _ in range(200):
            with cores.held(wanted):
                with lock:
                    held += wanted
                    most = max(most, held)
                with lock:
                    held -= wanted

    threads = [threading.Thread(target=work, args=(wanted,)) for wanted in (1, 1, 2, 3, 1, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    assert (held, 1 <= most <= 3) == (0, True)


def test_several_hold_one_each_at_once() -> None:
    cores, together = Cores(2), threading.Barrier(2, timeout=30)

    def work() -> None:
        with cores.held(1):
            together.wait()

    other = threading.Thread(target=work)
    other.start()
    work()
    other.join()


def test_what_wants_all_is_not_passed_by_what_wants_one() -> None:
    cores, order = Cores(2), []
    first = threading.Event()

    def wants(wanted: int) -> None:
        with cores.held(wanted):
            order.append(wanted)

    threads = [threading.Thread(target=wants, args=(wanted,)) for wanted in (2, 1)]
    with cores.held(1):
        for at, thread in enumerate(threads, 1):
            thread.start()
            while len(cores._waiting) < at:
                first.wait(0.001)
        assert order == []  # one core is free, but 2 came first
    for thread in threads:
        thread.join()
    assert order == [2, 1]


def test_they_are_given_back_after_an_error() -> None:
    cores = Cores(1)
    with pytest.raises(ValueError), cores.held(1):
        raise ValueError
    with cores.held(1):
        pass
