"""Trains steps away: a student that takes few learns which noise its teacher makes into what.

The student starts as the teacher and sees grids that are partly noise, as in ordinary training; but the noise is that
of which the teacher made these very codes (:mod:`~sundae_rt.training.prior.pairs`). So what is still noise says what
will be there, and positions that are drawn side by side fit one another: rectified discrete flow (Yoo et al. 2025).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sundae_rt.training.prior.corruption import draw_regions, replace_by
from sundae_rt.training.prior.denoising import DenoisingLoss, drop_labels, sample_codes
from sundae_rt.training.prior.families import Rectification
from sundae_rt.training.prior.hourglass import HourglassPrior
from sundae_rt.training.prior.sundae import unrolled_loss


class RectificationLoss(nn.Module):
    """The objective of a student of few steps, as one module."""

    def __init__(self, student: HourglassPrior, how: Rectification) -> None:
        super().__init__()
        self.prior, self.how = student, how

    def forward(self, codes: Tensor, labels: Tensor | None, step: int, noise: Tensor) -> DenoisingLoss:
        """Puts the noise back on the codes, and has the student tell them; then on what the student told.

        Half of the grids are as noisy as those before one of the student's steps, the others by chance, so that it can
        take other numbers of steps too.

        Args:
            codes: int64 ``[B, T]``, what the teacher made.
            labels: int64 ``[B]`` or None.
            step: of the training.
            noise: int64 ``[B, T]``, of what.

        Returns:
            the mean cross-entropy of the codes over the unrolled steps; the accuracy of the first.
        """
        how, count, sizes = self.how, len(codes), self.prior.config
        hidden = drop_labels(labels, how.label_dropout, sizes.labels)
        rates = torch.rand(count, device=codes.device)
        places = 1 - torch.randint(how.student_steps, (count,), device=codes.device) / how.student_steps
        rates = torch.where(torch.rand(count, device=codes.device) < 0.5, places, rates)

        region = draw_regions(count, sizes.latent_grid, how.region_share, codes.device)

        def with_less_noise(logits: Tensor) -> Tensor:
            nonlocal rates
            rates = rates * torch.rand(count, device=codes.device)
            return replace_by(noise, sample_codes(logits), rates)

        state = replace_by(noise, codes, rates)
        unroll_steps = how.unroll_steps if step >= how.unroll_start else 1
        return unrolled_loss(self.prior, state, codes, hidden, unroll_steps, with_less_noise, region)
