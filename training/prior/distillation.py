"""Trains steps away: a student that takes few learns from a finished prior, its teacher, that takes many.

The student starts as the teacher. From states in which it will stand when it has few steps, it learns the codes at
which the teacher's long chain ends from there. What the teacher's guidance does is learned on the way, so the student
needs none, which halves the price of each step. The positions of one step are drawn independently whatever is learned:
that bounds how few steps can do.

A student of as many steps as its teacher learns the guidance alone: the first stage of Meng et al. 2023.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from sundae_rt.training.prior.denoising import DenoisingLoss, drop_labels, sample_codes
from sundae_rt.training.prior.families import Distillation
from sundae_rt.training.prior.hourglass import HourglassPrior
from sundae_rt.training.prior.sundae import corrupt, share_at, unroll
from sundae_rt.training.prior.teacher import Teacher


class DistillationLoss(nn.Module):
    """The student's objective as one module.

    One chain a grid: the student takes some of its steps from random codes, the teacher goes on from there to the end
    of its own schedule. Where the student stopped, and all later places of the chain in which it would stand between
    two of its steps, are states to learn from. Each time the target is how the codes are distributed at the end, given
    the codes before the teacher's last step: less noisy than the codes that it would draw.

    A student of as many steps learns from the states of ordinary training instead, and there the target is how the
    guided teacher's codes are distributed after that step.

    ``real`` is the ordinary objective, of weight ``how.real_share``.
    """

    def __init__(self, student: HourglassPrior, teacher: Teacher, how: Distillation, real: nn.Module) -> None:
        super().__init__()
        self.prior, self.teacher, self.real = student, teacher.prior, real
        self.schedule, self.how = teacher.schedule, how
        # Before which of its steps the teacher stands where the student has taken 0, 1, ... of its own.
        self.places = [how.teacher_steps * taken // how.student_steps for taken in range(how.student_steps)]

    def forward(self, codes: Tensor, labels: Tensor | None, step: int) -> DenoisingLoss:
        """Makes chains with the labels of real codes, and learns their ends.

        Args:
            codes: int64 ``[B, T]``, real codes.
            labels: int64 ``[B]`` or None.
            step: of the training.

        Returns:
            the mean Kullback-Leibler divergence of student from target, in nats a code, and the cross-entropy on real
            codes, by their weights; how often the student's most probable code is the target's.
        """
        hidden = drop_labels(labels, self.how.label_dropout, self.prior.config.labels)
        if self.how.student_steps < self.how.teacher_steps:
            states, end = self._chain(codes, hidden)
            target = end.repeat(len(states), 1, 1)
        else:
            states, target = self._unrolled(codes, hidden)
        repeated = None if hidden is None else hidden.repeat(len(states))
        logits = self.prior(torch.cat(states), repeated).float()
        apart = functional.kl_div(logits.log_softmax(-1), target, reduction="none").sum(-1).mean()
        accuracy = (logits.detach().argmax(-1) == target.argmax(-1)).float().mean()
        share = self.how.real_share
        if not share:
            return DenoisingLoss(apart, accuracy)
        return DenoisingLoss((1 - share) * apart + share * self.real(codes, labels, step).loss, accuracy)

    @torch.no_grad()
    def _chain(self, like: Tensor, labels: Tensor | None) -> tuple[list[Tensor], Tensor]:
        """States ``[B, T]`` of one chain a grid, and how its codes are distributed at its end, ``[B, T, V]``."""
        how, schedule = self.how, self.schedule
        training = self.prior.training
        self.prior.eval()
        taken = int(torch.randint(how.student_steps, ()))
        codes = unroll(
            lambda codes: self.prior(codes, labels),
            torch.randint_like(like, self.prior.config.vocabulary),
            range(taken),
            how.student_steps,
            how.temperature,
            how.proportion,
        )
        self.prior.train(training)
        denoise, last = self._guided(labels), how.teacher_steps - 1
        states = []
        for place, following in zip(self.places[taken:], [*self.places[taken + 1 :], last], strict=True):
            states.append(codes)
            codes = unroll(
                denoise, codes, range(place, following), how.teacher_steps, schedule.temperature, schedule.proportion
            )
        temperature, share = schedule.temperature[1], share_at(schedule.proportion, last, how.teacher_steps)
        logits = denoise(codes).float()
        sure = functional.one_hot(torch.stack((codes, logits.argmax(-1))), logits.shape[-1]).float()
        proposed = (logits / temperature).softmax(-1) if temperature > 0 else sure[1]
        return states, share * proposed + (1 - share) * sure[0]

    @torch.no_grad()
    def _unrolled(self, codes: Tensor, labels: Tensor | None) -> tuple[list[Tensor], Tensor]:
        """N states ``[B, T]``, of noise on real codes and of what the teacher makes of it, and its steps from there."""
        denoise = self._guided(labels)
        state = corrupt(codes, torch.rand(codes.shape[0], device=codes.device), self.prior.config.vocabulary)
        states, targets = [], []
        for _ in range(self.how.unroll_steps):
            logits = denoise(state).float()
            states.append(state)
            targets.append(logits.softmax(-1))
            state = sample_codes(logits)
        return states, torch.cat(targets)

    def _guided(self, labels: Tensor | None) -> Callable[[Tensor], Tensor]:
        """The teacher's logits with its guidance, as the runtime's graph computes them."""
        guidance, teacher = self.how.teacher_guidance, self.teacher
        if guidance == 1 or labels is None:
            return lambda codes: teacher(codes, labels)
        both_labels = torch.cat((labels, torch.full_like(labels, teacher.config.labels)))

        def denoise(codes: Tensor) -> Tensor:
            labelled, unlabelled = teacher(codes.repeat(2, 1), both_labels).chunk(2)
            return unlabelled + guidance * (labelled - unlabelled)

        return denoise
