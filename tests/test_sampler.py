"""The pool of slots: what an image depends on, when it stops, who is told of what."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fakes import VOCABULARY, FakeBackend, settle, wander
from sundae_rt import noise
from sundae_rt.errors import BackendError, QueueFullError, SundaeError
from sundae_rt.families import Sundae
from sundae_rt.sampler import Model, Pool, Request
from sundae_rt.schedule import Schedule

POSITIONS = 12
SCHEDULE = Schedule(steps=6, temperature=(1.0, 0.5), proportion=(1.0, 0.5), min_steps=3)
PATIENCE = 30.0  # seconds before a test that hangs fails


class Denoiser:
    """A denoiser of flat arrays that keeps what it was asked; its confidence is the noise."""

    def __init__(self, propose: Callable[..., np.ndarray] = wander) -> None:
        self.propose = propose
        self.calls: list[dict[str, np.ndarray]] = []
        self.before: Callable[[], None] = lambda: None

    def __call__(self, **inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.calls.append(inputs)
        self.before()
        return self.propose({key: value for key, value in inputs.items() if value is not None}), inputs["uniform"]


def decode(codes: np.ndarray) -> np.ndarray:
    return FakeBackend().run("decoder", {"codes": codes})["images"]


def pool(denoise: Denoiser | None = None, *, batch_size: int = 4, max_waiting: int = 1000, **model: Any) -> Pool:
    model = {"family": Sundae(VOCABULARY), "label_weights": None, "decode": decode, "image_batch": 8, **model}
    return Pool(Model(denoise=denoise or Denoiser(), **model), batch_size=batch_size, max_waiting=max_waiting)


def request(count: int = 1, seed: int = 0, schedule: Schedule = SCHEDULE, **changes: Any) -> Request:
    values = {"label": None, "editable": np.ones(POSITIONS, bool), "codes": np.zeros(POSITIONS, np.int32), **changes}
    return Request(count, seed, schedule, **values)


def eventually(condition: Callable[[], bool]) -> None:
    """Let the other threads run until the condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()


def idle(pool: Pool) -> None:
    """Wait until both threads have ended."""
    eventually(lambda: pool._sampler is None and pool._decoder is None)


def codes_by_seed(pool: Pool, asked: Request) -> dict[int, list[int]]:
    return {slot.seed: slot.codes.tolist() for slot, _ in pool.stream(asked)}


# What an image depends on


def test_one_image_is_the_documented_loop() -> None:
    codes = noise.initial_codes(9, POSITIONS, VOCABULARY)
    for step in range(SCHEDULE.steps):
        uniform, draw = noise.step(9, step, POSITIONS)
        temperature = np.array([SCHEDULE.temperature_at(step)], np.float32)
        proposal = wander({"codes": codes[None], "uniform": uniform[None], "temperature": temperature})[0]
        codes = np.where(draw < np.float32(SCHEDULE.proportion_at(step)), proposal, codes)
    assert codes_by_seed(pool(), request(seed=9)) == {9: codes.tolist()}


@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
def test_an_image_does_not_depend_on_its_batch(batch_size: int) -> None:
    alone = {seed: codes_by_seed(pool(batch_size=1), request(seed=seed))[seed] for seed in range(100, 110)}
    assert codes_by_seed(pool(batch_size=batch_size), request(10, seed=100)) == alone


def test_an_image_does_not_depend_on_who_else_asks() -> None:
    shared = pool(batch_size=3)
    schedules = [SCHEDULE, Schedule(steps=2, min_steps=1), Schedule(steps=9, min_steps=4, guidance=3.0)]
    alone = [codes_by_seed(pool(), request(4, 50 + k, schedule)) for k, schedule in enumerate(schedules)]
    together: list[dict[int, list[int]]] = [{} for _ in schedules]

    def ask(k: int) -> None:
        together[k] = codes_by_seed(shared, request(4, 50 + k, schedules[k]))

    threads = [threading.Thread(target=ask, args=(k,)) for k in (2, 0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert together == alone


def test_the_largest_seed_is_a_seed() -> None:
    assert list(codes_by_seed(pool(), request(seed=noise.MAX_SEED))) == [noise.MAX_SEED]


def test_labels_are_drawn_from_the_images_own_seeds() -> None:
    weights = (0.5, 0.25, 0.25)
    drawn = {slot.seed: slot.label for slot, _ in pool(label_weights=weights).stream(request(20))}
    assert drawn == {seed: noise.label(seed, weights) for seed in range(20)}
    assert len(set(drawn.values())) == 3


def test_a_given_label_and_guidance_reach_the_denoiser() -> None:
    denoise = Denoiser()
    asked = request(2, schedule=Schedule(steps=1, min_steps=1, guidance=1.5), label=2)
    assert {slot.label for slot, _ in pool(denoise, label_weights=(0.5, 0.25, 0.25)).stream(asked)} == {2}
    (call,) = denoise.calls
    assert call["label"].tolist() == [2, 2]
    assert call["guidance"].tolist() == [1.5, 1.5]


# Kept positions


def test_kept_positions_never_change() -> None:
    denoise = Denoiser()
    editable = np.arange(POSITIONS) % 3 == 0
    kept = np.arange(POSITIONS, dtype=np.int32) + 50
    ((slot, _),) = pool(denoise).stream(request(editable=editable, codes=kept))
    assert slot.codes[~editable].tolist() == kept[~editable].tolist()
    assert all((call["codes"][:, ~editable] == kept[~editable]).all() for call in denoise.calls)
    first = denoise.calls[0]["codes"][0]
    assert first[editable].tolist() == noise.initial_codes(0, POSITIONS, VOCABULARY)[editable].tolist()


# When it stops


def test_an_image_that_keeps_changing_takes_all_steps() -> None:
    assert [slot.steps for slot, _ in pool().stream(request())] == [SCHEDULE.steps]


def test_an_image_that_has_settled_stops_after_min_steps() -> None:
    for min_steps in (1, 2, 3, 5):
        schedule = Schedule(steps=6, proportion=(1.0, 1.0), min_steps=min_steps)
        taken = [slot.steps for slot, _ in pool(Denoiser(settle)).stream(request(schedule=schedule))]
        assert taken == [max(2, min_steps)]


def test_standing_still_for_want_of_updates_is_not_settling() -> None:
    denoise = Denoiser(settle)
    schedule = Schedule(steps=40, proportion=(0.02, 0.02), min_steps=1)
    ((slot, _),) = pool(denoise).stream(request(schedule=schedule))
    seen = [call["codes"][0].tolist() for call in denoise.calls]
    assert any(one == other for one, other in itertools.pairwise(seen[:-1]))  # stood still, and went on
    last = denoise.calls[-1]["codes"][0].tolist()
    assert slot.steps == 40 or last == list(range(POSITIONS))


def test_settling_is_judged_where_codes_may_change() -> None:
    editable = np.arange(POSITIONS) < 4
    schedule = Schedule(steps=6, proportion=(1.0, 1.0), min_steps=1)
    asked = request(schedule=schedule, editable=editable, codes=np.full(POSITIONS, 99, np.int32))
    assert [slot.steps for slot, _ in pool(Denoiser(settle)).stream(asked)] == [2]


# The pool


def test_slots_are_refilled_at_once() -> None:
    denoise = Denoiser()
    codes_by_seed(pool(denoise, batch_size=4), request(10))
    assert [len(call["codes"]) for call in denoise.calls] == [4] * 12 + [2] * 6


def test_requests_of_different_callers_share_a_batch() -> None:
    denoise = Denoiser()
    shared = pool(denoise, batch_size=8)
    second = shared.stream(request(3, seed=10))
    arrived: list[int] = []

    def another_arrives() -> None:
        if len(denoise.calls) == 1:
            thread = threading.Thread(target=lambda: arrived.extend(slot.seed for slot, _ in second))
            thread.start()
            eventually(lambda: any(other.count == 3 for other in shared._requests))
            threads.append(thread)

    threads: list[threading.Thread] = []
    denoise.before = another_arrives
    codes_by_seed(shared, request(2))
    threads[0].join(PATIENCE)
    assert sorted(arrived) == [10, 11, 12]
    assert [len(call["codes"]) for call in denoise.calls] == [2, 5, 5, 5, 5, 5, 3]


def test_images_are_decoded_in_bounded_batches() -> None:
    sizes = []

    def counting(codes: np.ndarray) -> np.ndarray:
        sizes.append(len(codes))
        return decode(codes)

    list(pool(decode=counting, batch_size=64, image_batch=3).stream(request(30)))
    assert sum(sizes) == 30
    assert max(sizes) <= 3


def test_a_slow_caller_does_not_pile_up_images() -> None:
    shared = pool(batch_size=64)
    asked = request(60)
    stream = shared.stream(asked)
    next(stream)
    idle(shared)
    assert asked.results.qsize() < 30
    assert len(list(stream)) == 59


def test_threads_end_with_the_work_and_start_again() -> None:
    shared = pool()
    for _ in range(2):
        list(shared.stream(request(3)))
        idle(shared)


def test_more_than_max_waiting_images_are_refused_and_the_others_go_on() -> None:
    denoise = Denoiser()
    shared = pool(denoise, batch_size=2, max_waiting=5)
    with pytest.raises(QueueFullError, match=r"^0 images wait and 6 more would pass max_waiting \(5\): ask for fewer"):
        list(shared.stream(request(6)))
    refused: list[str] = []

    def another_asks() -> None:
        if len(denoise.calls) == 1:
            with pytest.raises(QueueFullError) as caught:
                next(shared.stream(request(3)))
            refused.append(str(caught.value))

    denoise.before = another_asks
    assert len(list(shared.stream(request(5)))) == 5
    assert refused[0].startswith("3 images wait and 3 more")


# Cancelling and failing


@pytest.mark.parametrize("how", ["close", "abandon"])
def test_a_stream_that_is_left_is_cancelled(how: str) -> None:
    denoise = Denoiser()
    shared = pool(denoise, batch_size=2)
    stream = shared.stream(request(1000))
    next(stream)
    if how == "close":
        stream.close()
    else:
        del stream
    idle(shared)
    assert len(denoise.calls) < 1000
    assert len(list(shared.stream(request(2)))) == 2


@pytest.mark.parametrize("where", ["denoise", "decode"])
def test_a_workers_exception_reaches_every_caller_and_the_pool_goes_on(where: str) -> None:
    fails = True
    all_asked = threading.Event()

    def fail(codes: np.ndarray) -> np.ndarray:
        all_asked.wait(PATIENCE)
        if fails:
            raise MemoryError("no room\nfor it")
        return decode(codes)

    denoise = Denoiser()
    if where == "denoise":
        denoise.before = lambda: (fail(np.zeros((1, POSITIONS), np.int32)), None)[1]
    shared = pool(denoise, batch_size=2, decode=fail if where == "decode" else decode)
    caught: list[BaseException] = []

    def ask(seed: int) -> None:
        try:
            list(shared.stream(request(3, seed)))
        except BackendError as error:
            caught.append(error)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(5)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(shared._requests) == 5)
    all_asked.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert [str(error) for error in caught] == ["sampling failed: MemoryError: no room for it"] * 5
    assert len({id(error) for error in caught}) == 5
    assert all(isinstance(error.__cause__, MemoryError) for error in caught)
    fails = False
    assert len(list(shared.stream(request(3)))) == 3


def test_an_error_of_this_package_keeps_its_class_and_words() -> None:
    denoise = Denoiser()

    def fail() -> None:
        raise BackendError("cpu: denoiser (fp32) failed: out of memory")

    denoise.before = fail
    with pytest.raises(BackendError, match=r"^cpu: denoiser \(fp32\) failed: out of memory$"):
        list(pool(denoise).stream(request()))


def test_closing_ends_those_who_wait_and_refuses_others() -> None:
    denoise = Denoiser()
    shared = pool(denoise, batch_size=1)
    closers: list[threading.Thread] = []

    def close_meanwhile() -> None:
        if not closers:
            closers.append(threading.Thread(target=shared.close))
            closers[0].start()

    denoise.before = close_meanwhile
    with pytest.raises(SundaeError, match=r"was closed"):
        list(shared.stream(request(1000)))
    closers[0].join(PATIENCE)
    with pytest.raises(SundaeError, match=r"is closed"):
        list(shared.stream(request()))
    shared.close()
