"""The rules of each family: how codes start, what a step writes, when an image is finished; the published runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from reference import recorded
from sundae_rt import noise
from sundae_rt.families import FAMILIES, Absorbing, Step, Sundae, settings_of
from sundae_rt.sampler import Model, Pool, Request, Slot
from sundae_rt.schedule import Schedule

POSITIONS, VOCABULARY = 12, 100
EVERYWHERE = np.ones(POSITIONS, bool)
CODES = np.arange(POSITIONS, dtype=np.int32)
SUNDAE, ABSORBING = Sundae(VOCABULARY), Absorbing(VOCABULARY)


def step(index: int = 0, editable: np.ndarray = EVERYWHERE, codes: np.ndarray = CODES, **schedule: object) -> Step:
    draw = np.linspace(0, 1, POSITIONS, endpoint=False, dtype=np.float32)
    return Step(Schedule().with_changes(**{"steps": 10, **schedule}), index, codes, editable, draw)  # type: ignore[arg-type]


def sampled(
    family: Sundae | Absorbing,
    schedule: Schedule,
    rows: int,
    propose: Callable[..., np.ndarray],
    positions: int = POSITIONS,
    editable: np.ndarray | None = None,
    kept: np.ndarray | None = None,
) -> list[Slot]:
    """The finished slots of images with the seeds 0 .. rows - 1."""

    def denoise(**inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return propose(inputs), np.zeros_like(inputs["uniform"])

    def decode(codes: np.ndarray) -> np.ndarray:
        return np.zeros((len(codes), 1, 1, 3), np.uint8)

    pool = Pool(Model(family, None, denoise, decode, 8), batch_size=2, max_waiting=100)
    editable = np.ones(positions, bool) if editable is None else editable
    kept = np.zeros(positions, np.int32) if kept is None else kept
    finished = pool.stream(Request(rows, 0, schedule, None, editable, kept))
    return sorted((slot for slot, _ in finished), key=lambda slot: slot.index)


def test_families_by_name_and_their_settings() -> None:
    assert list(FAMILIES) == ["sundae", "absorbing"]
    assert settings_of("absorbing", Schedule()) == {"steps": 20, "temperature": (1.0, 0.7), "guidance": 1.0}
    assert Schedule(**settings_of("sundae", Schedule())) == Schedule()


# SUNDAE: what a step writes


def test_uniform_order_writes_each_editable_position_by_chance() -> None:
    editable = EVERYWHERE.copy()
    editable[1] = False
    written = SUNDAE.written(step(proportion=0.25, editable=editable), np.zeros(POSITIONS, np.float32))
    assert np.flatnonzero(written).tolist() == [0, 2]


def test_confidence_order_writes_the_least_confident_share_and_ignores_chance() -> None:
    confidence = np.random.default_rng(0).permutation(POSITIONS).astype(np.float32) / POSITIONS
    for proportion, count in ((1.0, 12), (0.5, 6), (0.3, 4), (0.001, 1)):
        written = SUNDAE.written(step(order="confidence", proportion=proportion), confidence)
        assert np.flatnonzero(written).tolist() == sorted(np.argsort(confidence)[:count].tolist())


def test_confidence_order_counts_and_writes_editable_positions_alone() -> None:
    editable = np.arange(POSITIONS) >= 8
    confidence = np.linspace(0, 1, POSITIONS, dtype=np.float32)
    written = SUNDAE.written(step(order="confidence", proportion=0.5, editable=editable), confidence)
    assert np.flatnonzero(written).tolist() == [8, 9]


def test_the_choice_temperature_adds_gumbel_noise_to_the_logarithm_of_the_confidence() -> None:
    confidence = np.geomspace(1e-3, 1, POSITIONS).astype(np.float32)
    draw = noise.uniforms(3, noise.Purpose.STEP, POSITIONS)
    for scale in (0.0, 1.0, 1e6):
        one = step(order="confidence", proportion=0.5, choice_temperature=scale)
        scores = np.log(confidence) - scale * np.log(-np.log(draw))
        written = SUNDAE.written(replace(one, draw=draw), confidence)
        assert np.flatnonzero(written).tolist() == sorted(np.argsort(scores)[:6].tolist())


def test_where_all_confidences_are_0_and_draws_at_their_ends_positions_are_still_chosen_by_noise() -> None:
    draw = np.array([0.0, 1 - 2.0**-24] * 6, np.float32)
    one = replace(step(order="confidence", proportion=0.5, choice_temperature=1.0), draw=draw)
    assert np.flatnonzero(SUNDAE.written(one, np.zeros(POSITIONS, np.float32))).tolist() == [0, 2, 4, 6, 8, 10]


def test_either_order_follows_the_ancestral_proportion() -> None:
    zeros = np.zeros(POSITIONS, np.float32)
    for order in ("uniform", "confidence"):
        steps = [step(index, order=order, proportion="ancestral", steps=4) for index in range(4)]
        assert [SUNDAE.written(one, zeros).sum() for one in steps] == [3, 4, 6, 12]


def test_of_equally_confident_positions_the_first_are_written() -> None:
    confidence = np.full(POSITIONS, 0.5, np.float32)
    confidence[7] = 0.25
    written = SUNDAE.written(step(order="confidence", proportion=0.25), confidence)
    assert np.flatnonzero(written).tolist() == [0, 1, 7]


def test_the_share_follows_the_annealed_proportion() -> None:
    zeros = np.zeros(POSITIONS, np.float32)
    counts = [
        SUNDAE.written(step(index, order="confidence", proportion=(1.0, 0.5), steps=7), zeros).sum()
        for index in range(7)
    ]
    assert counts == [12, 11, 10, 9, 8, 7, 6]


# SUNDAE: when an image is finished


@pytest.mark.parametrize(("stop", "min_steps", "first"), [("proposal", 3, 3), ("published", 3, 4), ("published", 0, 1)])
def test_min_steps_counts_steps_or_is_the_published_index(stop: str, min_steps: int, first: int) -> None:
    """`first` is how many steps an image has taken that stops as early as it may."""
    idle = [SUNDAE.is_finished(step(taken - 1, stop=stop, min_steps=min_steps), CODES, CODES) for taken in range(1, 10)]
    assert idle == [taken >= first for taken in range(1, 10)]


def test_the_proposal_is_judged_at_editable_positions_and_the_published_rule_judges_what_was_written() -> None:
    proposal = CODES.copy()
    proposal[3] = 99
    editable = EVERYWHERE.copy()
    for kept, ours in ((False, False), (True, True)):
        editable[3] = not kept
        assert SUNDAE.is_finished(step(min_steps=1, editable=editable), proposal, CODES) is ours
        assert SUNDAE.is_finished(step(min_steps=0, editable=editable, stop="published"), proposal, CODES)
    assert not SUNDAE.is_finished(step(min_steps=0, stop="published"), proposal, proposal)


def test_the_published_sampler_is_reproduced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its recorded run, with its draws: proposed is the recorded code where one was written, and a change elsewhere."""
    run = recorded("prior-tiny")
    chances = run["trace_update_uniform"]
    steps, rows, positions = run["trace_value_uniform"].shape
    states, values = run["trace_states"].astype(np.int32), run["trace_value_uniform"]
    seen: dict[tuple[int, int], np.ndarray] = {}

    def propose(inputs: dict[str, np.ndarray]) -> np.ndarray:
        proposals = []
        for codes, uniform, temperature in zip(inputs["codes"], inputs["uniform"], inputs["temperature"], strict=True):
            ((n, row),) = np.argwhere((values == uniform).all(axis=2))
            seen[n, row] = codes
            assert temperature == pytest.approx(run["trace_temperature"][n])
            written = chances[n, row] <= run["trace_proportion"][n]
            proposals.append(np.where(written, states[n + 1, row], (codes + 1) % 96))
        return np.stack(proposals).astype(np.int32)

    monkeypatch.setattr(noise, "initial_codes", lambda seed, positions, vocabulary: states[0, seed])
    monkeypatch.setattr(noise, "step", lambda seed, n, positions: (values[n, seed], chances[n, seed]))
    ends = [tuple(float(end) for end in run[f"trace_{name}"][[0, -1]]) for name in ("temperature", "proportion")]
    schedule = Schedule(steps, *ends, min_steps=int(run["trace_min_steps"]), stop="published")
    slots = sampled(Sundae(96), schedule, rows, propose, positions)
    for row, slot in enumerate(slots):
        assert (np.arange(steps) < slot.steps).tolist() == run["trace_active"][:, row].tolist()
        assert slot.codes.tolist() == states[-1, row].tolist()
        for n in range(slot.steps):
            assert seen[n, row].tolist() == states[n, row].tolist()


# Absorbing diffusion


def test_absorbing_starts_masked_with_a_code_of_its_own() -> None:
    assert (ABSORBING.mask_code, ABSORBING.input_codes) == (VOCABULARY, VOCABULARY + 1)
    assert ABSORBING.start(5, POSITIONS).tolist() == [VOCABULARY] * POSITIONS


def test_absorbing_reveals_masked_positions_alone_and_all_in_the_last_step() -> None:
    codes = CODES.copy()
    codes[::2] = VOCABULARY
    none = np.zeros(POSITIONS, np.float32)
    assert np.flatnonzero(ABSORBING.written(step(6, codes=codes), none)).tolist() == [0, 2]  # where the draw is < 1/4
    assert np.flatnonzero(ABSORBING.written(step(9, codes=codes), none)).tolist() == [0, 2, 4, 6, 8, 10]


def test_an_absorbing_image_is_finished_when_nothing_is_masked() -> None:
    masked = CODES.copy()
    masked[4] = VOCABULARY
    assert not ABSORBING.is_finished(step(), CODES, masked)
    assert ABSORBING.is_finished(step(), masked, CODES)


def test_revealed_codes_stay_and_kept_ones_are_never_written() -> None:
    states: list[np.ndarray] = []

    def propose(inputs: dict[str, np.ndarray]) -> np.ndarray:
        states.append(inputs["codes"][0])
        return np.floor(inputs["uniform"] * VOCABULARY).astype(np.int32)

    kept, editable = CODES + 50, CODES % 3 > 0
    (slot,) = sampled(ABSORBING, Schedule(steps=8, min_steps=1), 1, propose, editable=editable, kept=kept)
    states.append(slot.codes)
    assert states[0].tolist() == np.where(editable, VOCABULARY, kept).tolist()
    for before, after in itertools.pairwise(states):
        assert (after[before != VOCABULARY] == before[before != VOCABULARY]).all()
    assert (slot.codes[~editable] == kept[~editable]).all()
    assert (slot.codes < VOCABULARY).all()
    assert slot.steps == len(states) - 1 <= 8
    assert all((state == VOCABULARY).any() for state in states[:-1])  # no step was taken that had nothing to do


def test_an_absorbing_image_does_not_depend_on_its_batch() -> None:
    def propose(inputs: dict[str, np.ndarray]) -> np.ndarray:
        return np.floor(inputs["uniform"] * VOCABULARY).astype(np.int32)

    schedule = Schedule(steps=5, min_steps=1)
    together = sampled(ABSORBING, schedule, 7, propose)
    assert [slot.codes.tolist() for slot in sampled(ABSORBING, schedule, 3, propose)] == [
        slot.codes.tolist() for slot in together[:3]
    ]


def test_the_published_absorbing_sampler_is_reproduced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its recorded chain with its draws: the recorded code is proposed where one is revealed, another elsewhere."""
    run = recorded("absorbing-tiny")
    steps, rows, positions = run["uniform"].shape
    states, values = run["sampled_states"].astype(np.int32), run["uniform"]
    seen: dict[tuple[int, int], np.ndarray] = {}

    def propose(inputs: dict[str, np.ndarray]) -> np.ndarray:
        proposals = []
        for codes, uniform in zip(inputs["codes"], inputs["uniform"], strict=True):
            ((k, row),) = np.argwhere((values == uniform).all(axis=2))
            seen[k, row] = codes
            proposals.append(np.where(run["unmask"][k, row], states[k + 1, row], 63 - codes % 64))
        return np.stack(proposals).astype(np.int32)

    monkeypatch.setattr(noise, "step", lambda seed, k, positions: (values[k, seed], run["unmask_uniform"][k, seed]))
    slots = sampled(Absorbing(64), Schedule(steps, min_steps=1), rows, propose, positions)
    for row, slot in enumerate(slots):
        assert slot.codes.tolist() == states[-1, row].tolist()
        for k in range(slot.steps):
            assert seen[k, row].tolist() == states[k, row].tolist()
