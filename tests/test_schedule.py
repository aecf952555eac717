"""A schedule anneals linearly from the first step to the last, and refuses what makes no sense by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sundae_rt.errors import InputError
from sundae_rt.schedule import MAX_STEPS, Schedule


def test_annealing_is_linear_and_ends_exactly() -> None:
    schedule = Schedule(steps=5, temperature=(1.0, 0.6), proportion=(0.9, 0.1), min_steps=1)
    assert [schedule.temperature_at(step) for step in range(5)] == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6])
    assert (schedule.temperature_at(4), schedule.proportion_at(4)) == (0.6, 0.1)
    assert schedule.proportion_at(2) == pytest.approx(0.5)
    chosen = Schedule(steps=3, choice_temperature=(2.0, 0.0), min_steps=1)
    assert [chosen.choice_temperature_at(step) for step in range(3)] == [2.0, 1.0, 0.0]


def test_a_single_step_takes_the_first_value() -> None:
    assert Schedule(steps=1, min_steps=1, temperature=(0.9, 0.1)).temperature_at(0) == 0.9


def test_the_ancestral_proportion_writes_all_that_is_left_over_the_steps_that_are_left() -> None:
    """The share of noise falls by the same amount in every step, to none."""
    schedule = Schedule(steps=5, proportion="ancestral", min_steps=1)
    noise = np.cumprod([1 - schedule.proportion_at(step) for step in range(5)])
    assert noise.tolist() == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])
    assert schedule.with_changes(steps=1).proportion_at(0) == 1.0
    assert schedule.with_changes(temperature=0.9).proportion == "ancestral"
    assert schedule.with_changes(proportion=0.5).proportion == (0.5, 0.5)


def test_one_number_stands_for_both_ends() -> None:
    changed = Schedule().with_changes(temperature=0.5, proportion=np.float32(0.5))
    assert changed.temperature == (0.5, 0.5)
    assert changed.proportion == (0.5, 0.5)


def test_what_is_not_given_stays() -> None:
    assert Schedule().with_changes() == Schedule()
    assert Schedule().with_changes(steps=None, guidance=2).guidance == 2.0
    assert Schedule().with_changes(steps=np.int64(30)).steps == 30


def test_min_steps_gives_way_to_steps_only_where_it_was_not_given() -> None:
    assert Schedule(steps=20, min_steps=10).with_changes(steps=4).min_steps == 4
    with pytest.raises(InputError, match=r"min_steps must be at most steps \(4\), not 10"):
        Schedule().with_changes(steps=4, min_steps=10)


def test_min_steps_starts_at_0_for_the_published_rule_alone() -> None:
    assert Schedule(min_steps=0, stop="published").min_steps == 0
    with pytest.raises(InputError, match=r"min_steps must be a whole number from 1 to 65536, not 0"):
        Schedule(min_steps=0)
    assert Schedule(min_steps=0, stop="published").with_changes(stop="proposal").min_steps == 1


def test_settings_from_a_file_must_have_values() -> None:
    assert Schedule.from_settings({"steps": 4, "order": "confidence"}) == Schedule(4, min_steps=4, order="confidence")
    with pytest.raises(InputError, match=r"^stop must have a value, not null$"):
        Schedule.from_settings({"stop": None})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("steps", 2.0),
        ("steps", True),
        ("steps", "20"),
        ("steps", MAX_STEPS + 1),
        ("steps", 10**400),
        ("min_steps", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", 1e39),
        ("temperature", 10**400),
        ("temperature", (1.0,)),
        ("temperature", (1.0, 0.5, 0.2)),
        ("temperature", (1.0, "0.5")),
        ("temperature", "1:0.5"),
        ("temperature", True),
        ("proportion", 0.0),
        ("proportion", 1.1),
        ("proportion", (0.5, float("nan"))),
        ("proportion", "1:0.5"),
        ("guidance", -1),
        ("stop", "x" * 500),
        ("stop", 1),
        ("order", "random"),
        ("choice_temperature", -0.5),
        ("choice_temperature", (1.0, float("nan"))),
        ("guidance", float("inf")),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^{name} must be ") as caught:
        Schedule().with_changes(**{name: value})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
