"""Step-unrolled denoising: how codes are corrupted, the loss (section 3.2), and a plain sampler in PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sundae_rt.training.prior.hourglass import HourglassPrior


@dataclass(frozen=True, slots=True)
class UnrolledLoss:
    """``loss``: scalar, mean over the unrolled steps; ``accuracy``: share of codes right in the first step."""

    loss: Tensor
    accuracy: Tensor


def corrupt(codes: Tensor, rates: Tensor, vocabulary: int) -> Tensor:
    """Replaces each code of row b, with probability ``rates[b]``, by a uniformly random one. Integers ``[B, T]``."""
    noise = torch.randint_like(codes, vocabulary)
    chosen = torch.rand(codes.shape, device=codes.device) < rates[:, None]
    return torch.where(chosen, noise, codes)


def sample_codes(logits: Tensor) -> Tensor:
    """One draw from softmax(logits) at every place: float ``[B, T, V]`` to int64 ``[B, T]``."""
    # Gumbel-max: the argmax of logits minus log of exponential noise is a draw from their softmax.
    noise = torch.empty_like(logits, dtype=torch.float32).exponential_().log()
    return (logits.float() - noise).argmax(-1)


class SundaeLoss(nn.Module):
    """The training objective as one module, so that a wrapper for several processes sees a single forward pass."""

    def __init__(self, prior: HourglassPrior, label_dropout: float) -> None:
        super().__init__()
        self.prior, self.label_dropout = prior, label_dropout

    def forward(self, codes: Tensor, labels: Tensor | None, unroll_steps: int) -> UnrolledLoss:
        """Corrupts at rates r ~ U(0, 1), denoises, samples, and denoises again.

        Args:
            codes: int64 ``[B, T]``, the true codes.
            labels: int64 ``[B]`` or None.
            unroll_steps: k; every step but the first starts from a sample of the one before, without gradient.
        """
        vocabulary = self.prior.config.vocabulary
        if labels is not None and self.label_dropout:
            dropped = torch.rand(labels.shape, device=labels.device) < self.label_dropout
            labels = torch.where(dropped, self.prior.config.labels, labels)
        state = corrupt(codes, torch.rand(codes.shape[0], device=codes.device), vocabulary)
        losses: list[Tensor] = []
        accuracy = codes.new_zeros((), dtype=torch.float32)
        for step in range(unroll_steps):
            logits = self.prior(state, labels)
            losses.append(functional.cross_entropy(logits.float().flatten(0, 1), codes.flatten()))
            if step == 0:
                accuracy = (logits.detach().argmax(-1) == codes).float().mean()
            if step + 1 < unroll_steps:
                state = sample_codes(logits.detach())
        return UnrolledLoss(torch.stack(losses).mean(), accuracy)


@torch.no_grad()
def sample(
    prior: HourglassPrior,
    labels: Tensor | None,
    count: int,
    steps: int,
    temperature: tuple[float, float],
    proportion: tuple[float, float],
) -> Tensor:
    """Draws code grids by the plain loop of the paper (algorithm 1), with torch's own random numbers.

    ``temperature`` and ``proportion`` run linearly from the first to the last step. Returns int64 ``[count, h, w]``.
    """
    height, width = prior.config.latent_grid
    device = prior.to_logits.weight.device
    codes = torch.randint(prior.config.vocabulary, (count, height * width), device=device)
    for step in range(steps):
        along = step / max(steps - 1, 1)
        heat = temperature[0] + (temperature[1] - temperature[0]) * along
        share = proportion[0] + (proportion[1] - proportion[0]) * along
        logits = prior(codes, labels).float()
        proposal = sample_codes(logits / heat) if heat > 0 else logits.argmax(-1)
        codes = torch.where(torch.rand(codes.shape, device=device) < share, proposal, codes)
    return codes.view(count, height, width)


@torch.no_grad()
def cross_entropy_at(prior: HourglassPrior, codes: Tensor, labels: Tensor | None, rate: float) -> float:
    """Mean cross-entropy, in nats a code, of true codes ``[B, T]`` given a corruption of them at one rate."""
    noisy = corrupt(codes, torch.full((codes.shape[0],), rate, device=codes.device), prior.config.vocabulary)
    return float(functional.cross_entropy(prior(noisy, labels).float().flatten(0, 1), codes.flatten()))
