"""SUNDAE training: unrolling, and a loss that any implementation of the paper would give."""

import pytest

torch = pytest.importorskip("torch")

from sundae_rt.training.prior.denoising import sample_codes  # noqa: E402
from sundae_rt.training.prior.hourglass import HourglassConfig, HourglassPrior  # noqa: E402
from sundae_rt.training.prior.sundae import SundaeLoss, sample  # noqa: E402

CONFIG = HourglassConfig(11, (4, 4), (1, 1, 1), (16,), (1,), labels=3, null_label=True)


def test_codes_are_drawn_from_the_softmax_of_the_logits():
    torch.manual_seed(0)
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(1, 20_000, 3)
    share = sample_codes(logits).flatten().bincount(minlength=3) / 20_000
    assert share.tolist() == pytest.approx(torch.softmax(logits[0, 0], -1).tolist(), abs=0.02)


class Recorder(torch.nn.Module):
    """A stand-in for the prior: always nearly sure of code 7, and it remembers what it was given."""

    config = CONFIG

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.0))
        self.seen = []

    def forward(self, codes, label):
        self.seen.append((codes, label))
        logits = torch.zeros(*codes.shape, 11)
        logits[..., 7] = 50.0
        return logits * self.scale


def test_each_next_step_starts_from_a_sample_of_the_one_before_without_gradient():
    prior = Recorder()
    codes = torch.full((2, 16), 7)
    result = SundaeLoss(prior, 0.0, unroll_steps=3)(codes, torch.tensor([0, 1]), 0)
    assert len(prior.seen) == 3
    assert torch.equal(prior.seen[1][0], codes) and torch.equal(prior.seen[2][0], codes)
    assert not prior.seen[1][0].requires_grad
    assert float(result.accuracy) == 1


def test_the_loss_is_the_mean_cross_entropy_over_all_unrolled_steps():
    prior = Recorder()
    result = SundaeLoss(prior, 0.0, unroll_steps=2)(torch.full((2, 16), 3), torch.tensor([0, 1]), 0)
    assert float(result.loss.detach()) == pytest.approx(50.0, abs=1e-3)


def test_before_its_start_nothing_is_unrolled():
    prior = Recorder()
    loss = SundaeLoss(prior, 0.0, unroll_steps=3, unroll_start=5)
    loss(torch.full((2, 16), 3), torch.tensor([0, 1]), 4)
    assert len(prior.seen) == 1
    loss(torch.full((2, 16), 3), torch.tensor([0, 1]), 5)
    assert len(prior.seen) == 1 + 3


def test_outside_of_its_region_a_grid_keeps_its_codes_in_every_step():
    torch.manual_seed(0)
    prior, codes = Recorder(), torch.full((200, 16), 3)
    SundaeLoss(prior, 0.0, unroll_steps=2, region_share=1.0)(codes, torch.zeros(200, dtype=torch.long), 0)
    (noisy, _), (sampled, _) = prior.seen
    region = sampled == 7  # which is what the model is sure of
    assert torch.equal(sampled, torch.where(region, 7, 3))
    assert (noisy == 3)[~region].all()
    assert 0.3 < region.float().mean() < 0.7
    assert (noisy != 3)[region].float().mean() == pytest.approx(0.5 * 10 / 11, abs=0.05)


def test_label_dropout_hides_labels_behind_the_null_label():
    torch.manual_seed(0)
    prior = Recorder()
    SundaeLoss(prior, 1.0)(torch.zeros(8, 16, dtype=torch.long), torch.zeros(8, dtype=torch.long), 0)
    assert prior.seen[0][1].tolist() == [CONFIG.labels] * 8


def test_the_plain_sampler_gives_grids_of_valid_codes():
    grids = sample(HourglassPrior(CONFIG).eval(), torch.tensor([0, 1, 2]), 3, 4, (1.0, 0.0), (1.0, 0.5))
    assert grids.shape == (3, 4, 4)
    assert grids.min() >= 0 and grids.max() < 11


def test_the_plain_samplers_ancestral_proportion_leaves_no_noise():
    torch.manual_seed(0)
    for proportion, share in (("ancestral", 1.0), ((0.25, 0.25), 1 - 0.75**4)):
        prior = Recorder()
        prior.to_logits = torch.nn.Linear(1, 1)  # what tells the sampler its device
        grids = sample(prior, None, 500, 4, (1.0, 1.0), proportion)
        assert (grids == 7).float().mean() == pytest.approx(share + (1 - share) / 11, abs=0.02)
        noisy = [(codes != 7).float().mean() * 11 / 10 for codes, _ in prior.seen]
        if proportion == "ancestral":
            assert noisy == pytest.approx([1, 0.75, 0.5, 0.25], abs=0.03)
