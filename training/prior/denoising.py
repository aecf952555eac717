"""What the losses and the plain samplers of all families share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class DenoisingLoss:
    """``loss``: scalar, to be descended; ``accuracy``: share of codes right of those that were asked for, detached."""

    loss: Tensor
    accuracy: Tensor


def drop_labels(labels: Tensor | None, share: float, null_label: int) -> Tensor | None:
    """Replaces a share of the labels ``[B]`` by the null label, for classifier-free guidance."""
    if labels is None or not share:
        return labels
    dropped = torch.rand(labels.shape, device=labels.device) < share
    return torch.where(dropped, null_label, labels)


def sample_codes(logits: Tensor) -> Tensor:
    """One draw from softmax(logits) at every place: float ``[B, T, V]`` to int64 ``[B, T]``."""
    # Gumbel-max: the argmax of logits minus log of exponential noise is a draw from their softmax.
    noise = torch.empty_like(logits, dtype=torch.float32).exponential_().log()
    return (logits.float() - noise).argmax(-1)


def propose(logits: Tensor, temperature: float) -> Tensor:
    """One draw at a temperature, where 0 is the most probable code: float ``[B, T, V]`` to int64 ``[B, T]``."""
    return sample_codes(logits.float() / temperature) if temperature > 0 else logits.argmax(-1)
