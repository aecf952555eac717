"""Any published prior: which family a checkpoint holds is read from the names of its weights."""

from __future__ import annotations

from pathlib import Path

from sundae_rt.errors import InputError
from sundae_rt.export.halves import PriorHalf
from sundae_rt.export.published import tensors
from sundae_rt.export.published.absorbing import holds_absorbing, read_absorbing
from sundae_rt.export.published.hourglass import holds_hourglass, read_hourglass
from sundae_rt.export.published.labels import LabelOrder


def read_prior(
    path: Path,
    config: Path,
    *,
    label_order: LabelOrder = "index",
    label_names: Path | None = None,
    weights: tensors.Weights | None = None,
) -> PriorHalf:
    """Reads a published prior.

    Args:
        path: its checkpoint: ``{"net": state_dict, ...}`` of ``HourglassTransformerLM``, or the state dict of
            *Unleashing Transformers*' ``AbsorbingDiffusion``.
        config: the config beside it.
        label_order: how the run numbered its classes; ``string`` for the published ImageNet runs.
        label_names: a file with a name for each true class, one a line; without it a class is named by its number.
        weights: the checkpoint's tensors, where they have been read.

    Raises:
        InputError: unreadable, of no known kind, or weights and config that contradict each other.
    """
    weights = tensors.read(path) if weights is None else weights
    if holds_absorbing(weights):
        if label_order != "index" or label_names is not None:
            raise InputError(f"{path} is a prior without labels: leave out --label-order and --label-names")
        return read_absorbing(path, weights, config)
    if not holds_hourglass(weights):
        some = ", ".join(list(weights)[:5]) or "no tensor"
        known = "HourglassTransformerLM, AbsorbingDiffusion"
        raise InputError(f"{path} is no published prior that is known ({known}); it holds {some}, ...")
    return read_hourglass(path, weights, config, label_order, label_names)
