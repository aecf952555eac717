"""Corruption: rates, regions as in inpainting, and that a prior which saw regions repaints better."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from stripes import STRIPES, write_stripes  # noqa: E402
from sundae_rt.training import checkpoint, encoding  # noqa: E402
from sundae_rt.training.prior import train as prior_training  # noqa: E402
from sundae_rt.training.prior.corruption import corrupt, draw_regions  # noqa: E402
from sundae_rt.training.prior.families import build_prior  # noqa: E402

CPU = torch.device("cpu")


def test_each_row_is_corrupted_at_its_own_rate():
    torch.manual_seed(0)
    codes = torch.zeros(3, 4000, dtype=torch.long)
    changed = (corrupt(codes, torch.tensor([0.0, 0.5, 1.0]), 11) != codes).float().mean(1)
    # One in eleven random codes is the old one again.
    assert changed.tolist() == pytest.approx([0, 0.5 * 10 / 11, 10 / 11], abs=0.03)


def rectangles(regions):
    """Which of the regions, bool [N, h, w], fill the rectangle about them."""
    about = regions.any(2, keepdim=True) & regions.any(1, keepdim=True)
    return (about == regions).flatten(1).all(1)


def test_a_region_is_a_rectangle_or_what_lies_outside_of_one():
    torch.manual_seed(0)
    regions = draw_regions(2000, (5, 8), 1.0, CPU).view(-1, 5, 8)
    inside, outside = rectangles(regions), rectangles(~regions)
    assert (inside | outside).all()
    assert (inside & ~outside).float().mean() > 0.2 and (outside & ~inside).float().mean() > 0.2
    shares = regions.float().mean((1, 2))
    assert 0.4 < shares.mean() < 0.6 and shares.min() < 0.05 and shares.max() > 0.95
    assert regions.float().mean(0).sub(0.5).abs().max() < 0.1  # every cell has its turn


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_other_grids_may_be_noise_everywhere(share):
    torch.manual_seed(0)
    everywhere = float(draw_regions(4000, (6, 6), share, CPU).all(1).float().mean())
    whole = float(
        draw_regions(4000, (6, 6), 1.0, CPU).all(1).float().mean()
    )  # so large a rectangle, or nothing outside
    assert everywhere == pytest.approx(1 - share + share * whole, abs=0.03)


def test_a_prior_that_saw_regions_tells_what_a_block_of_noise_hides(tmp_path):
    write_stripes(tmp_path / "codes.safetensors")
    codes = encoding.read(tmp_path / "codes.safetensors").codes.flatten(1).long().repeat(32, 1)
    hidden = torch.zeros(4, 4, dtype=torch.bool)
    hidden[2:, 1:] = True
    torch.manual_seed(1)
    states = torch.where(hidden.flatten(), torch.randint_like(codes, 16), codes)
    right = {}
    for share in (0.0, 1.0):
        preset = tmp_path / f"{share}.toml"
        preset.write_text(STRIPES.replace("steps = 200\n", f"steps = 300\nregion_share = {share}\n"))
        path = prior_training.train(tmp_path / "codes.safetensors", tmp_path / str(share), preset=str(preset), say=str)
        values = checkpoint.load(path, "prior")
        prior = build_prior(values, str(path)).eval()
        prior.load_state_dict(values["weights"])
        with torch.no_grad():
            found = prior(states, None).argmax(-1)
        right[share] = float((found == codes)[:, hidden.flatten()].float().mean())
    assert right[1.0] > right[0.0] + 0.1, right
