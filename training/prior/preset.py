"""The ``[prior]`` section of a preset: the sizes of a prior, how it is trained, and how it samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sundae_rt.errors import InputError
from sundae_rt.training import config
from sundae_rt.training.encoding import LatentDataset
from sundae_rt.training.prior.families import FAMILIES, PriorTraining, Student, family_name


@dataclass(frozen=True, slots=True)
class PriorPreset:
    """A preset's ``[prior]`` section, read and checked; its parts are what the family asks for.

    ``students``: its sections ``[prior.distillation]`` and ``[prior.rectification]``, by these names.
    """

    sizes: Any
    training: PriorTraining
    schedule: Any
    family: str = "sundae"
    students: Mapping[str, Student] = field(default_factory=dict)

    def student(self, kind: str) -> PriorPreset:
        """The same for a student, of "distillation" or "rectification": its own training and schedule.

        Raises:
            InputError: it drops labels, for which the prior has no null label.
        """
        how = self.students[kind]
        _check_dropout(how, self.sizes, f"[prior.{kind}]")
        return replace(self, training=how, schedule=how.schedule(self.schedule))

    def lasting(self, steps: int | None) -> PriorPreset:
        """The same with another number of training steps, if one is given."""
        return self if steps is None else replace(self, training=replace(self.training, steps=steps))


def read_config(preset: config.Preset, dataset: LatentDataset | None = None) -> PriorPreset:
    """Sizes, training and default schedule of a preset's prior.

    With a dataset, its vocabulary and latent grid must be the preset's; the number of labels is the dataset's, and a
    preset's null label and label dropout hold only where there are labels.

    Raises:
        InputError: the two differ, and both sides are named; or the preset has no prior, or a wrong key or value.
    """
    values = preset.section("prior")
    where = f"preset {preset.name!r} [prior]"
    named = family_name(values, where)
    family = FAMILIES[named]
    values.pop("family", None)
    training = config.build(family.training, values.pop("training", {}), f"{where[:-1]}.training]")
    schedule = config.build(family.schedule, values.pop("schedule", {}), f"{where[:-1]}.schedule]")
    students = {
        name: config.build(settings, values.pop(name, {}), f"{where[:-1]}.{name}]")
        for name, settings in family.students.items()
    }
    if dataset is not None:
        values["labels"] = len(dataset.labels or ())
    if not values.get("labels"):
        values["null_label"] = False
    sizes = config.build(family.config, values, where)
    if dataset is not None:
        for name, wanted, found in (
            ("vocabulary", sizes.vocabulary, dataset.vocabulary),
            ("latent_grid", sizes.latent_grid, tuple(dataset.codes.shape[1:])),
        ):
            if wanted != found:
                raise InputError(f"{where} has {name} {wanted}, the codes have {found}")
    _check_dropout(training, sizes, f"{where[:-1]}.training]")
    return PriorPreset(sizes, training, schedule, named, students)


def _check_dropout(how: PriorTraining, sizes: Any, where: str) -> None:
    if how.label_dropout and sizes.labels and not sizes.null_label:
        raise InputError(f"{where}: label_dropout needs null_label = true, or must be 0")
