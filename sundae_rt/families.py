"""The families of models: each is three rules on the codes of one image, which the pool of slots applies.

| family      | codes start as       | a step writes                              | an image is finished         |
|-------------|----------------------|--------------------------------------------|------------------------------|
| `sundae`    | uniform random codes | a share of the editable positions          | when it has stopped changing |
| `absorbing` | the mask code        | some of the masked positions, once for all | when nothing is masked       |

`sundae` is the step-unrolled denoising autoencoder (Savinov et al. 2021), `absorbing` the absorbing diffusion of
Bond-Taylor et al. 2021 (*Unleashing Transformers*). Both run the same graph; its inputs and outputs are the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from sundae_rt import noise
from sundae_rt.schedule import Schedule

Codes = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One step of one image, before the model has run.

    Attributes:
        schedule: the image's schedule.
        index: which step, 0 .. schedule.steps - 1.
        codes: int32 [T], what the model sees.
        editable: bool [T], False where an inpainting keeps a code.
        draw: float32 [T] in [0, 1), multiples of 2^-24, decides which positions are written.
    """

    schedule: Schedule
    index: int
    codes: Codes
    editable: NDArray[np.bool_]
    draw: NDArray[np.float32]


class Family(Protocol):
    """The rules of a family, for a model of `vocabulary` codes.

    Attributes:
        settings: the fields of `Schedule` that mean something to it.
        input_codes: how many different codes its denoiser takes, 0 .. input_codes - 1.
    """

    settings: ClassVar[tuple[str, ...]]
    input_codes: int

    def __init__(self, vocabulary: int) -> None: ...

    def start(self, seed: int, positions: int) -> Codes:
        """The codes of editable positions before the first step: int32 [positions]."""
        ...

    def written(self, step: Step, confidence: NDArray[np.float32] | None) -> NDArray[np.bool_]:
        """Where the step writes the model's proposal, bool [T].

        `confidence` is the graph's output, float32 [T]; None will do where that can be foreseen.
        """
        ...

    def foreseeable_steps(self, schedule: Schedule) -> int | None:
        """The fewest steps that an image takes (or hardly ever takes fewer), if where they write can be foreseen.

        That is so where `written` hangs neither on the confidence nor on which codes were written before, but at most
        on where. None: it cannot.
        """
        ...

    def is_finished(self, step: Step, proposal: Codes, codes: Codes) -> bool:
        """Whether the image needs no more steps, given the step's proposal and the codes after it, int32 [T] each."""
        ...


class Sundae:
    """Every step writes a share of the editable positions anew. See `Family`."""

    settings: ClassVar[tuple[str, ...]] = tuple(field.name for field in fields(Schedule))

    def __init__(self, vocabulary: int) -> None:
        self.input_codes = vocabulary

    def start(self, seed: int, positions: int) -> Codes:
        """Uniform random codes."""
        return noise.initial_codes(seed, positions, self.input_codes)

    def written(self, step: Step, confidence: NDArray[np.float32] | None) -> NDArray[np.bool_]:
        """Each editable position by chance (`order="uniform"`), or the least confident ones (`order="confidence"`)."""
        proportion = step.schedule.proportion_at(step.index)
        if step.schedule.order == "confidence":
            assert confidence is not None, "this order cannot be foreseen"
            spread = step.schedule.choice_temperature_at(step.index) * _gumbel(step.draw)
            return _lowest(_logarithm(confidence) + spread, step.editable, proportion)
        return (step.draw < np.float32(proportion)) & step.editable

    def foreseeable_steps(self, schedule: Schedule) -> int | None:
        """Positions by chance are known ahead; nothing stops before `min_steps`."""
        if schedule.order != "uniform":
            return None
        return schedule.min_steps if schedule.stop == "proposal" else min(schedule.min_steps + 1, schedule.steps)

    def is_finished(self, step: Step, proposal: Codes, codes: Codes) -> bool:
        """Judged on the whole proposal (`stop="proposal"`), or on what was written of it (`stop="published"`).

        With a small proportion the codes may stand still while the model still wants to change them, so the published
        rule stops images that are not finished.
        """
        if step.schedule.stop == "published":
            return step.index >= step.schedule.min_steps and np.array_equal(codes, step.codes)
        settled = (proposal == step.codes) | ~step.editable
        return step.index + 1 >= step.schedule.min_steps and bool(settled.all())


class Absorbing:
    """Every step reveals some of what is masked; a code that was revealed stays. See `Family`.

    The mask code is `vocabulary`, one beyond the codebook. Step k of N (k from 0) reveals each masked position with the
    chance 1 / (N - k), so the last step reveals all that is left.
    """

    settings: ClassVar[tuple[str, ...]] = ("steps", "temperature", "guidance")

    def __init__(self, vocabulary: int) -> None:
        self.mask_code = vocabulary
        self.input_codes = vocabulary + 1

    def start(self, seed: int, positions: int) -> Codes:
        """The mask code everywhere."""
        return np.full(positions, self.mask_code, np.int32)

    def written(self, step: Step, confidence: NDArray[np.float32] | None) -> NDArray[np.bool_]:
        """Masked positions, by chance."""
        chance = np.float32(1 / (step.schedule.steps - step.index))
        written: NDArray[np.bool_] = (step.codes == self.mask_code) & (step.draw < chance)
        return written

    def foreseeable_steps(self, schedule: Schedule) -> int | None:
        """All: what is still masked is known ahead, and the last code is seldom revealed before the last step."""
        return schedule.steps

    def is_finished(self, step: Step, proposal: Codes, codes: Codes) -> bool:
        """Nothing is masked any more."""
        return not (codes == self.mask_code).any()


FAMILIES: Final[Mapping[str, type[Family]]] = {"sundae": Sundae, "absorbing": Absorbing}
"""The families by the name that a manifest has for them."""


def settings_of(family: str, schedule: Schedule) -> dict[str, Any]:
    """The values of a schedule that mean something to a family, by name."""
    return {name: getattr(schedule, name) for name in FAMILIES[family].settings}


def _logarithm(confidence: NDArray[np.float32]) -> NDArray[np.float64]:
    """The logarithm of probabilities; what is 0 counts as the smallest number above it, so that noise can be added."""
    return np.log(np.maximum(confidence, np.finfo(np.float32).smallest_subnormal).astype(np.float64))


def _gumbel(draw: NDArray[np.float32]) -> NDArray[np.float64]:
    """Gumbel noise of uniform draws, each taken in the middle of its 2^-24, where the logarithms are finite."""
    return -np.log(-np.log(draw.astype(np.float64) + 2.0**-25))


def _lowest(scores: NDArray[np.float64], editable: NDArray[np.bool_], proportion: float) -> NDArray[np.bool_]:
    """The share of editable positions with the lowest scores, at least one; of equal ones, the first."""
    candidates = np.flatnonzero(editable)
    count = max(1, round(proportion * len(candidates)))
    chosen = np.zeros(editable.shape, np.bool_)
    chosen[candidates[np.argsort(scores[candidates], kind="stable")[:count]]] = True
    return chosen
