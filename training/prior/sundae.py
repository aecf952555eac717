"""Step-unrolled denoising: how codes are corrupted, the loss (section 3.2), and a plain sampler in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from sundae_rt.schedule import Ancestral
from sundae_rt.training.prior.denoising import DenoisingLoss, annealed, drop_labels, propose, sample_codes
from sundae_rt.training.prior.hourglass import HourglassPrior

Proportion = tuple[float, float] | Ancestral
"""The share of codes that a step writes: from the first step to the last, or as uniform-noise diffusion in reverse."""


def share_at(proportion: Proportion, step: int, steps: int) -> float:
    """The share that step 0 .. steps - 1 writes, as the runtime's ``Schedule`` has it."""
    return 1 / (steps - step) if proportion == "ancestral" else annealed(proportion, step, steps)


def corrupt(codes: Tensor, rates: Tensor, vocabulary: int) -> Tensor:
    """Replaces each code of row b, with probability ``rates[b]``, by a uniformly random one. Integers ``[B, T]``."""
    noise = torch.randint_like(codes, vocabulary)
    chosen = torch.rand(codes.shape, device=codes.device) < rates[:, None]
    return torch.where(chosen, noise, codes)


class SundaeLoss(nn.Module):
    """The training objective as one module, so that a wrapper for several processes sees a single forward pass.

    ``unroll_steps`` is k; before step ``unroll_start`` of the training it is 1.
    """

    def __init__(
        self, prior: HourglassPrior, label_dropout: float, unroll_steps: int = 2, unroll_start: int = 0
    ) -> None:
        super().__init__()
        self.prior, self.label_dropout = prior, label_dropout
        self.unroll_steps, self.unroll_start = unroll_steps, unroll_start

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
        vocabulary = self.prior.config.vocabulary
        unroll_steps = self.unroll_steps if step >= self.unroll_start else 1
        labels = drop_labels(labels, self.label_dropout, self.prior.config.labels)
        state = corrupt(codes, torch.rand(codes.shape[0], device=codes.device), vocabulary)
        losses: list[Tensor] = []
        accuracy = codes.new_zeros((), dtype=torch.float32)
        for unrolled in range(unroll_steps):
            logits = self.prior(state, labels)
            losses.append(functional.cross_entropy(logits.float().flatten(0, 1), codes.flatten()))
            if unrolled == 0:
                accuracy = (logits.detach().argmax(-1) == codes).float().mean()
            if unrolled + 1 < unroll_steps:
                state = sample_codes(logits.detach())
        return DenoisingLoss(torch.stack(losses).mean(), accuracy)


@torch.no_grad()
def sample(
    prior: HourglassPrior,
    labels: Tensor | None,
    count: int,
    steps: int,
    temperature: tuple[float, float],
    proportion: Proportion,
) -> Tensor:
    """Draws code grids from random codes, by :func:`unroll` and with torch's own random numbers.

    ``temperature`` runs linearly from the first to the last step. Positions are written by chance, whatever order the
    runtime would choose them in. Returns int64 ``[count, h, w]``.
    """
    height, width = prior.config.latent_grid
    device = prior.to_logits.weight.device
    codes = torch.randint(prior.config.vocabulary, (count, height * width), device=device)
    codes = unroll(lambda codes: prior(codes, labels), codes, range(steps), steps, temperature, proportion)
    return codes.view(count, height, width)


@torch.no_grad()
def unroll(
    denoise: Callable[[Tensor], Tensor],
    codes: Tensor,
    taken: Iterable[int],
    steps: int,
    temperature: tuple[float, float],
    proportion: Proportion,
) -> Tensor:
    """Takes the steps ``taken`` of a schedule of ``steps``: the plain loop of the paper (algorithm 1), or a part of it.

    ``denoise``: codes ``[B, T]`` to logits ``[B, T, V]``. Returns codes ``[B, T]``.
    """
    for step in taken:
        proposal = propose(denoise(codes), annealed(temperature, step, steps))
        share = share_at(proportion, step, steps)
        codes = torch.where(torch.rand(codes.shape, device=codes.device) < share, proposal, codes)
    return codes


@torch.no_grad()
def cross_entropy_at(prior: HourglassPrior, codes: Tensor, labels: Tensor | None, rate: float) -> float:
    """Mean cross-entropy, in nats a code, of true codes ``[B, T]`` given a corruption of them at one rate."""
    noisy = corrupt(codes, torch.full((codes.shape[0],), rate, device=codes.device), prior.config.vocabulary)
    return float(functional.cross_entropy(prior(noisy, labels).float().flatten(0, 1), codes.flatten()))
