"""Step-unrolled denoising: the loss (section 3.2), and a plain sampler in PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from sundae_rt.schedule import Ancestral, Schedule
from sundae_rt.training.prior.corruption import corrupt, draw_regions
from sundae_rt.training.prior.denoising import DenoisingLoss, drop_labels, propose, sample_codes
from sundae_rt.training.prior.hourglass import HourglassPrior

Proportion = tuple[float, float] | Ancestral
"""The share of codes that a step writes: from the first step to the last, or as uniform-noise diffusion in reverse."""


def unrolled_loss(
    prior: HourglassPrior,
    state: Tensor,
    codes: Tensor,
    labels: Tensor | None,
    unroll_steps: int,
    next_state: Callable[[Tensor], Tensor],
    region: Tensor,
) -> DenoisingLoss:
    """The mean cross-entropy of ``codes [B, T]`` over k steps from a state (section 3.2), and the first one's accuracy.

    ``next_state``: from a step's logits ``[B, T, V]``, without gradient, to the state of the step after it, ``[B, T]``.
    ``region``: bool ``[B, T]``; outside of it every state has the codes themselves.
    """
    losses: list[Tensor] = []
    accuracy = codes.new_zeros((), dtype=torch.float32)
    for unrolled in range(unroll_steps):
        logits = prior(torch.where(region, state, codes), labels)
        losses.append(functional.cross_entropy(logits.float().flatten(0, 1), codes.flatten()))
        if unrolled == 0:
            accuracy = (logits.detach().argmax(-1) == codes).float().mean()
        if unrolled + 1 < unroll_steps:
            state = next_state(logits.detach())
    return DenoisingLoss(torch.stack(losses).mean(), accuracy)


class SundaeLoss(nn.Module):
    """The training objective as one module, so that a wrapper for several processes sees a single forward pass.

    ``unroll_steps`` is k; before step ``unroll_start`` of the training it is 1. ``region_share`` of the grids are noise
    in a region alone.
    """

    def __init__(
        self,
        prior: HourglassPrior,
        label_dropout: float,
        unroll_steps: int = 2,
        unroll_start: int = 0,
        region_share: float = 0.0,
    ) -> None:
        super().__init__()
        self.prior, self.label_dropout = prior, label_dropout
        self.unroll_steps, self.unroll_start, self.region_share = unroll_steps, unroll_start, region_share

    def forward(self, codes: Tensor, labels: Tensor | None, step: int) -> DenoisingLoss:
        """Corrupts at rates r ~ U(0, 1), denoises, samples, and denoises again.

        Args:
            codes: int64 ``[B, T]``, the true codes.
            labels: int64 ``[B]`` or None.
            step: of the training.

        Returns:
            the mean cross-entropy over the unrolled steps, of which every one but the first starts from a sample of the
            one before, without gradient; the accuracy of the first.
        """
        sizes, count = self.prior.config, len(codes)
        unroll_steps = self.unroll_steps if step >= self.unroll_start else 1
        labels = drop_labels(labels, self.label_dropout, sizes.labels)
        region = draw_regions(count, sizes.latent_grid, self.region_share, codes.device)
        noisy = corrupt(codes, torch.rand(count, device=codes.device), sizes.vocabulary)
        return unrolled_loss(self.prior, noisy, codes, labels, unroll_steps, sample_codes, region)


@torch.no_grad()
def sample(
    prior: HourglassPrior,
    labels: Tensor | None,
    count: int,
    steps: int,
    temperature: tuple[float, float],
    proportion: Proportion,
) -> Tensor:
    """Draws code grids from random codes, with torch's own random numbers: the plain loop of the paper (algorithm 1).

    ``temperature`` runs linearly from the first to the last step. Positions are written by chance, whatever order the
    runtime would choose them in. Returns int64 ``[count, h, w]``.
    """
    height, width = prior.config.latent_grid
    device = prior.to_logits.weight.device
    codes = torch.randint(prior.config.vocabulary, (count, height * width), device=device)
    schedule = Schedule(steps, temperature, proportion, min_steps=1)
    for step in range(steps):
        proposal = propose(prior(codes, labels), schedule.temperature_at(step))
        written = torch.rand(codes.shape, device=device) < schedule.proportion_at(step)
        codes = torch.where(written, proposal, codes)
    return codes.view(count, height, width)


@torch.no_grad()
def cross_entropy_at(prior: HourglassPrior, codes: Tensor, labels: Tensor | None, rate: float) -> float:
    """Mean cross-entropy, in nats a code, of true codes ``[B, T]`` given a corruption of them at one rate."""
    noisy = corrupt(codes, torch.full((codes.shape[0],), rate, device=codes.device), prior.config.vocabulary)
    return float(functional.cross_entropy(prior(noisy, labels).float().flatten(0, 1), codes.flatten()))
