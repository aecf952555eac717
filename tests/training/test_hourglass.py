"""The prior's architecture: sizes as published, patches in two dimensions, rotary embeddings that know the axes."""

import math

import pytest

torch = pytest.importorskip("torch")

from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.training.prior.hourglass import (  # noqa: E402
    HourglassConfig,
    HourglassPrior,
)
from sundae_rt.training.prior.layers import Layer  # noqa: E402
from sundae_rt.training.prior.rotary import (  # noqa: E402
    axial_tables,
    pixel_tables,
    rotate_first_head,
    rotate_halves,
)


def count(config):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in HourglassPrior(config).parameters())


def toy(**changes):
    values = {"vocabulary": 11, "latent_grid": (8, 4), "depth": (1, 1, 1), "dims": (16, 24), "heads": (1, 2)}
    return HourglassConfig(**(values | changes))


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (HourglassConfig(1024, (16, 16), (2, 10, 2)), 178_429_952),
        (HourglassConfig(1024, (16, 16), (3, 10, 3)), 199_421_952),
        (HourglassConfig(8192, (32, 32), (2, 10, 2), (2048,)), 671_438_848),
        (HourglassConfig(1024, (16, 16), (2, 16, 2), (2048,), (12,), labels=1000), 916_872_192),
    ],
)
def test_it_has_as_many_parameters_as_the_published_models(config, parameters):
    assert count(config) == parameters


def test_logits_cover_every_place_of_a_grid_that_is_no_square():
    assert HourglassPrior(toy())(torch.zeros(3, 32, dtype=torch.long)).shape == (3, 32, 11)


def test_every_place_sees_every_other_since_there_is_no_causal_mask():
    prior = HourglassPrior(toy()).eval()
    codes = torch.zeros(1, 32, dtype=torch.long)
    before = prior(codes)
    codes[0, 31] = 5
    assert ((prior(codes) - before).abs().amax(-1) > 0).all()


def test_patches_are_squares_of_the_grid_and_come_back_in_place():
    resampling = HourglassPrior(toy()).hourglass.resampling
    places = torch.arange(32.0).view(1, 32, 1)
    patches = resampling.split(places)
    assert patches[0, 0, :, 0].tolist() == [0, 1, 4, 5]
    assert patches[0, 3, :, 0].tolist() == [10, 11, 14, 15]
    assert torch.equal(resampling.group(patches), patches)
    assert torch.equal(resampling.ungroup(patches), places)


def test_published_groups_are_runs_of_raster_order_and_come_back_in_place():
    resampling = HourglassPrior(toy(**HourglassConfig.PUBLISHED)).hourglass.resampling
    places = torch.arange(32.0).view(1, 32, 1)
    groups = resampling.group(resampling.split(places))
    assert groups[0, :, :, 0].tolist() == torch.arange(32.0).view(8, 4).tolist()
    assert torch.equal(resampling.ungroup(groups), places)


@pytest.mark.parametrize(
    ("order", "features"), [("last", [0, 9, 1, 8, 2, 7, 3, 6]), ("first", [0, 1, 2, 3, 9, 8, 7, 6])]
)
def test_a_patchs_channels_vary_fastest_or_slowest(order, features):
    resampling = HourglassPrior(toy(patch_channels=order)).hourglass.resampling
    patch = torch.tensor([[0, 9], [1, 8], [2, 7], [3, 6]])[None, None]
    assert resampling.join(patch)[0, 0].tolist() == features
    assert torch.equal(resampling.unjoin(resampling.join(patch)), patch)


def test_rotary_scores_depend_on_distance_along_each_axis_alone():
    tables = axial_tables((6, 6))
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 64).expand(2, 1, 1, 36, 64)
    scores = (rotate_halves(query, tables) @ rotate_halves(key, tables).transpose(-1, -2))[0, 0].view(6, 6, 6, 6)
    assert torch.allclose(scores[0, 0, 2, 3], scores[3, 2, 5, 5], atol=1e-4)
    assert not torch.allclose(scores[0, 0, 2, 3], scores[0, 0, 3, 2], atol=1e-2)


def test_published_rotary_turns_neighbouring_channels_of_the_first_head_alone():
    tables = pixel_tables((3, 3), 16)
    heads = torch.zeros(1, 2, 9, 64)
    heads[..., 0] = heads[..., 34] = 1
    turned = rotate_first_head(heads, tables)
    assert torch.equal(turned[:, 1], heads[:, 1])
    # Channel 0 turns with the row, by pi at the ends; channel 34, of the columns' second pair, with the column.
    assert torch.allclose(turned[0, 0, :, 0].view(3, 3), torch.tensor([[-1.0], [1], [-1]]).expand(3, 3), atol=1e-5)
    angle = math.pi * (1 + 7 / 15)
    assert turned[0, 0, 2, 35].item() == pytest.approx(math.sin(angle), abs=1e-5)
    assert turned[0, 0, 0, 34].item() == pytest.approx(math.cos(angle), abs=1e-5)


def test_only_the_innermost_valley_has_frequencies_of_its_own():
    nested = toy(latent_grid=(24, 24), depth=(1, (1, 1, 1), 1), shorten=(9, 4), **HourglassConfig.PUBLISHED)
    outer = HourglassPrior(nested).hourglass
    assert [outer.before.rotary.highest, outer.valley.after.rotary.highest, outer.valley.valley.rotary.highest] == [
        16,
        16,
        4,
    ]


@pytest.mark.parametrize("bias", [False, True])
def test_one_key_leaves_nothing_to_queries_and_keys_and_only_training_asks_them(bias):
    torch.manual_seed(0)
    layer = Layer(48, 2, context_dim=24, bias=bias)
    x, context = torch.randn(3, 5, 48), torch.randn(3, 1, 24)
    long_way = layer.train()(x, context)
    torch.testing.assert_close(layer.eval()(x, context), long_way, rtol=0, atol=1e-6)
    query = layer.attention.to_query.weight
    long_way.sum().backward()
    assert query.grad is not None  # processes that train together wait for it
    two = torch.randn(3, 2, 24)
    of_one, of_two = layer(x, context), layer(x, two)
    query.data.mul_(-5)
    assert torch.equal(layer(x, context), of_one)
    assert not torch.allclose(layer(x, two), of_two, atol=1e-4)


@pytest.mark.parametrize("positions", ["axial", "first-head", "learned"])
def test_the_model_knows_where_a_code_stands(positions):
    prior = HourglassPrior(toy(positions=positions)).eval()
    for parameter in prior.parameters():
        parameter.data.mul_(5)
    codes = torch.arange(32)[None] % 11
    assert not torch.allclose(prior(codes).flip(1), prior(codes.flip(1)), atol=1e-3)


def test_hourglasses_nest():
    config = toy(latent_grid=(8, 8), depth=(1, (1, 1, 1), 1), dims=(8, 16, 24), heads=(1, 1, 2))
    assert HourglassPrior(config)(torch.zeros(1, 64, dtype=torch.long)).shape == (1, 64, 11)


def test_labels_change_the_logits_and_the_null_label_is_one_more():
    prior = HourglassPrior(toy(labels=3, null_label=True)).eval()
    codes = torch.zeros(4, 32, dtype=torch.long)
    logits = prior(codes, torch.tensor([0, 1, 2, 3]))
    assert len({tuple(row.tolist()) for row in logits[:, 0]}) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shorten": 5}, "shorten is 5"),
        ({"latent_grid": (7, 8)}, "does not divide by 2"),
        ({"heads": (0,)}, "heads"),
        ({"vocabulary": 1}, "vocabulary is 1"),
        ({"null_label": True}, "null_label needs labels"),
        ({"depth": (1, (1, 1), 1)}, "no triple"),
        ({"depth": 3}, "depth 3 is no triple"),
        ({"shorten": (4, 5), "depth": (1, (1, 1, 1), 1)}, r"shorten is \(4, 5\)"),
        ({"positions": "rotary"}, "positions is 'rotary': it must be one of axial"),
        ({"resampling": "groups"}, "resampling is 'groups'"),
        ({"patch_channels": "middle"}, "patch_channels is 'middle'"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused_by_name(changes, words):
    with pytest.raises(InputError, match=words):
        toy(**changes)
