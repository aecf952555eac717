"""What an image is conditioned on: its label, and how strongly guidance follows it."""

from collections.abc import Sequence
from typing import Any, Final, TypeGuard

import numpy as np
from numpy.typing import NDArray

from sundae_rt.errors import InputError, shown
from sundae_rt.manifest import Manifest
from sundae_rt.validation import FLOAT32_MAX, real, real_array, whole

Label = str | int | None


class Conditioning:
    """The labels and the guidance that a bundle knows; it refuses what the bundle does not.

    Attributes:
        label_weights: share of each label in the training data, summing to 1, or None for an unlabelled bundle.
        null_label: the id that stands for "any label", or None where the bundle does not say that it knows one.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        equal = None if manifest.labels is None else (1 / len(manifest.labels),) * len(manifest.labels)
        self.label_weights: Final = manifest.label_weights or equal
        self.null_label: Final = len(manifest.labels) if manifest.labels is not None and manifest.null_label else None

    def label_id(self, label: object) -> int:
        """The id of a label given by name or id.

        Raises:
            InputError: the bundle has no labels, or not this one.
        """
        labels = self._manifest.labels
        if labels is None:
            raise InputError(f"label must be left out: the bundle {self._manifest.name!r} has no labels")
        if isinstance(label, str):
            if label not in labels:
                raise InputError(f"label must be one of {', '.join(labels)}, not {shown(label)}")
            return labels.index(label)
        return whole("label", label, 0, len(labels) - 1)

    def label_name(self, label_id: int | None) -> str | None:
        """The name of a label; None for the null label, and in an unlabelled bundle."""
        labels = self._manifest.labels
        return None if labels is None or label_id in (None, self.null_label) else labels[label_id]

    def label_input(self, count: int, label: object) -> dict[str, NDArray[Any]]:
        """The input `label` int32 [N] of a raw run on `count` rows, or nothing for an unlabelled bundle.

        Raises:
            InputError: a label is missing, unknown, or given to a bundle without labels.
        """
        if label is None and self._manifest.labels is None:
            return {}
        if label is None:
            raise InputError(
                f"label must be given: one of {', '.join(self._manifest.labels or ())}, or one for each row"
            )
        if _is_one_each(label):
            if len(label) != count:
                raise InputError(f"label must be one, or one for each of {count} rows, not {len(label)}")
            return {"label": np.array([self.label_id(one) for one in label], np.int32)}
        return {"label": np.full(count, self.label_id(label), np.int32)}

    def check_guidance(self, guidance: object) -> None:
        """Refuse a guidance other than 1 where there is nothing to be guided by.

        Raises:
            InputError: the bundle has no labels, or no null label.
        """
        if self._manifest.can_guide or not (_is_one_each(guidance) or guidance != 1):
            return
        reason = "has no labels to follow" if self._manifest.labels is None else "knows no null label to lead away from"
        raise InputError(f"guidance must be left out: the bundle {self._manifest.name!r} {reason}")


def per_image(name: str, value: object, count: int, high: float = FLOAT32_MAX) -> NDArray[np.float32]:
    """One number for all images or one for each, from 0 to `high`, as float32 [N].

    Raises:
        InputError: another count, or a number out of range.
    """
    if _is_one_each(value):
        return real_array(name, value, (count,), 0.0, high)
    return np.full(count, real(name, value, 0.0, high), np.float32)


def _is_one_each(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether it is several values, one for each image, and not one for all."""
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)
