"""Trains guidance away: a student learns what its teacher draws with it, and draws that at half the price.

The first stage of Meng et al. 2023 (*On Distillation of Guided Diffusion Models*), for codes. How steps are trained
away is :mod:`~sundae_rt.training.prior.rectification`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sundae_rt.training.prior.corruption import corrupt, draw_regions
from sundae_rt.training.prior.denoising import DenoisingLoss, drop_labels, sample_codes
from sundae_rt.training.prior.families import Distillation
from sundae_rt.training.prior.hourglass import HourglassPrior


class DistillationLoss(nn.Module):
    """The student's objective as one module.

    It learns in the states of ordinary training: noise on real codes, and what the guided teacher makes of it. The
    target is how the guided teacher's codes are distributed after that step.
    """

    def __init__(self, student: HourglassPrior, teacher: HourglassPrior, how: Distillation) -> None:
        super().__init__()
        self.prior, self.teacher, self.how = student, teacher, how

    def forward(self, codes: Tensor, labels: Tensor | None, step: int) -> DenoisingLoss:
        """Asks teacher and student of the same states.

        Args:
            codes: int64 ``[B, T]``, real codes.
            labels: int64 ``[B]`` or None.
            step: of the training.

        Returns:
            the mean Kullback-Leibler divergence of student from target, in nats a code; how often the student's most
            probable code is the target's.
        """
        hidden = drop_labels(labels, self.how.label_dropout, self.prior.config.labels)
        states, target = self._unrolled(codes, hidden)
        repeated = None if hidden is None else hidden.repeat(len(states))
        logits = self.prior(torch.cat(states), repeated).float()
        apart = functional.kl_div(logits.log_softmax(-1), target, reduction="none").sum(-1).mean()
        return DenoisingLoss(apart, (logits.detach().argmax(-1) == target.argmax(-1)).float().mean())

    @torch.no_grad()
    def _unrolled(self, codes: Tensor, labels: Tensor | None) -> tuple[list[Tensor], Tensor]:
        """N states ``[B, T]``, of noise on real codes and of what the teacher makes of it, and its steps from there."""
        sizes, count = self.prior.config, len(codes)
        region = draw_regions(count, sizes.latent_grid, self.how.region_share, codes.device)
        state = corrupt(codes, torch.rand(count, device=codes.device), sizes.vocabulary)
        states, targets = [], []
        for _ in range(self.how.unroll_steps):
            state = torch.where(region, state, codes)
            logits = self._guided(state, labels).float()
            states.append(state)
            targets.append(logits.softmax(-1))
            state = sample_codes(logits)
        return states, torch.cat(targets)

    def _guided(self, codes: Tensor, labels: Tensor | None) -> Tensor:
        """The teacher's logits with its guidance, as the runtime's graph computes them."""
        guidance, teacher = self.how.teacher_guidance, self.teacher
        if labels is None:
            return teacher(codes, labels)
        both_labels = torch.cat((labels, torch.full_like(labels, teacher.config.labels)))
        labelled, unlabelled = teacher(codes.repeat(2, 1), both_labels).chunk(2)
        return unlabelled + guidance * (labelled - unlabelled)
