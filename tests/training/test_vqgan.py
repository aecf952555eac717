"""The VQ-GAN: names and padding as published, a quantiser that finds the nearest code, a codebook that lives."""

import dataclasses

import pytest

torch = pytest.importorskip("torch")

from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.training import checkpoint  # noqa: E402
from sundae_rt.training.encoding import load_vqgan  # noqa: E402
from sundae_rt.training.features import efficientnet_lite0  # noqa: E402
from sundae_rt.training.vqgan.layers import Downsample, Upsample  # noqa: E402
from sundae_rt.training.vqgan.losses import (  # noqa: E402
    Discriminator,
    FeatureDiscriminator,
    PatchDiscriminator,
    adaptive_weight,
    colour_loss,
    hinge_loss,
)
from sundae_rt.training.vqgan.model import VQGAN, VQGANConfig, to_model, to_pixels  # noqa: E402
from sundae_rt.training.vqgan.preset import VQGANTraining  # noqa: E402
from sundae_rt.training.vqgan.quantiser import (  # noqa: E402
    CodebookFollower,
    GumbelQuantiser,
    VectorQuantiser,
    perplexity,
)


def toy(**changes):
    values = {"image_size": 16, "channels": 8, "multipliers": (1, 2), "latent_channels": 4, "code_dim": 3}
    return VQGANConfig(**(values | {"codebook_size": 10, "norm_groups": 4} | changes))


def test_weights_are_named_as_in_taming_transformers():
    names = set(VQGAN(toy(attention_resolutions=(8,))).state_dict())
    assert {
        "encoder.conv_in.weight",
        "encoder.down.0.block.0.norm1.weight",
        "encoder.down.0.downsample.conv.weight",
        "encoder.down.1.block.0.nin_shortcut.weight",
        "encoder.down.1.attn.0.proj_out.weight",
        "encoder.mid.block_1.conv1.weight",
        "encoder.mid.attn_1.q.weight",
        "encoder.norm_out.weight",
        "quant_conv.weight",
        "quantize.embedding.weight",
        "post_quant_conv.weight",
        "decoder.up.1.upsample.conv.weight",
        "decoder.up.0.block.1.conv2.weight",
        "decoder.conv_out.weight",
    } <= names
    assert "decoder.up.0.upsample.conv.weight" not in names


def test_options_of_published_models_change_names_only_where_they_must():
    plain = set(VQGAN(toy(multipliers=(1, 2, 2))).state_dict())
    changes = {
        "middle_attention": False,
        "decoder_blocks": 1,
        "decoder_attention_resolutions": (4,),
        "quant_conv": False,
        "code_dim": 4,
    }
    other = set(VQGAN(toy(multipliers=(1, 2, 2), **changes)).state_dict())
    assert {name.split(".")[0] for name in plain - other} == {"encoder", "decoder", "quant_conv", "post_quant_conv"}
    assert {name.rsplit(".", 2)[0] for name in other - plain} == {"decoder.up.2.attn.0"}
    gumbel = VQGAN(toy(quantiser="gumbel", unit_norm=False))
    assert {"quantize.proj.weight", "quantize.embedding.weight"} <= set(gumbel.state_dict())


def test_sides_are_halved_and_doubled_without_convolutions_where_a_published_model_has_none():
    x = torch.arange(48.0).view(1, 2, 4, 6)
    down, up = Downsample(2, convolution=False), Upsample(2, convolution=False)
    assert not [*down.parameters(), *up.parameters()]
    assert torch.equal(down(x)[0, 0], torch.tensor([[3.5, 5.5, 7.5], [15.5, 17.5, 19.5]]))
    assert torch.equal(up(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


@torch.no_grad()
def test_a_model_without_resampling_convolutions_is_one_whose_convolutions_average_and_copy():
    plain = VQGAN(toy(multipliers=(1, 2, 2), resampling_convolutions=False)).eval()
    other = VQGAN(toy(multipliers=(1, 2, 2))).eval()
    other.load_state_dict(plain.state_dict(), strict=False)
    resampling = {name: tensor for name, tensor in other.named_parameters() if "sample.conv" in name}
    assert resampling.keys() == other.state_dict().keys() - plain.state_dict().keys()
    for name, tensor in resampling.items():
        tensor.zero_()
        if name.endswith("weight"):
            diagonal = tensor.diagonal().permute(2, 0, 1)  # what each channel hands to itself
            if "downsample" in name:
                diagonal[:, :2, :2] = 0.25
            else:
                diagonal[:, 1, 1] = 1
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    latents, codes = plain.encoder(images), torch.arange(32).view(2, 4, 4) % 10
    assert latents.shape == (2, 4, 4, 4)
    torch.testing.assert_close(other.encoder(images), latents)
    torch.testing.assert_close(other.decode(codes), plain.decode(codes))


def test_a_checkpoint_from_before_an_option_loads_with_its_default(tmp_path):
    model = VQGAN(toy())
    earlier = dataclasses.asdict(model.config)
    del earlier["resampling_convolutions"]
    values = {"format_version": 1, "kind": "vqgan", "config": earlier, "weights": model.state_dict()}
    checkpoint.save(tmp_path / "vqgan.pt", values)
    assert load_vqgan(tmp_path / "vqgan.pt").config == model.config


def test_a_gumbel_quantiser_takes_the_largest_logit():
    torch.manual_seed(0)
    quantiser = GumbelQuantiser(10, 3)
    latents = torch.randn(2, 3, 4, 5)
    logits = torch.einsum("bdhw,nd->bhwn", latents, quantiser.proj.weight[:, :, 0, 0]) + quantiser.proj.bias
    codes = quantiser.codes(latents)
    assert torch.equal(codes, logits.argmax(-1))
    assert torch.equal(quantiser.embed(codes)[1, :, 2, 3], quantiser.embedding.weight[codes[1, 2, 3]])


def test_a_model_decodes_any_grid_and_attends_where_its_nominal_size_says():
    model = VQGAN(toy(attention_resolutions=(8,), stem_multiplier=2)).eval()
    images = torch.rand(1, 3, 32, 24)
    assert model.encode(images).shape == (1, 16, 12)
    assert model.decode(model.encode(images)).shape == (1, 3, 32, 24)


def test_black_and_white_lie_where_the_pixel_range_says():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 3, 1).expand(1, 1, 3, 3)
    for pixel_range, wanted in (((0.0, 1.0), [0, 0.2, 1]), ((-1.0, 1.0), [-1, -0.6, 1])):
        images = to_model(pixels, pixel_range)
        assert images[0, 0, 0].tolist() == pytest.approx(wanted, abs=1e-6)
        assert torch.equal(to_pixels(images, pixel_range), pixels)


def test_a_decoder_of_its_own_widths_leaves_the_encoder_and_the_codes_alone():
    plain, wide = VQGAN(toy()), VQGAN(toy(decoder_multipliers=(3, 4)))
    assert {name: tensor.shape for name, tensor in wide.codes_parameters().items()} == {
        name: tensor.shape for name, tensor in plain.codes_parameters().items()
    }
    assert wide.decoder.conv_in.out_channels == 8 * 4
    assert wide.decoder.conv_out.in_channels == 8 * 3
    assert wide.decode(torch.zeros(1, 8, 8, dtype=torch.long)).shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image_size": 17}, "multiple of f = 2, not 17"),
        ({"multipliers": ()}, "multipliers must be"),
        ({"decoder_multipliers": (1,)}, r"decoder_multipliers must be 2 whole numbers .* not \[1\]"),
        ({"decoder_multipliers": (1, 0)}, r"decoder_multipliers must be 2 whole numbers .* not \[1, 0\]"),
        ({"norm_groups": 3}, "norm_groups 3 must divide the channels of every level, but one has 8"),
        ({"quantiser": "other"}, "quantiser must be one of nearest, gumbel, not 'other'"),
        ({"quantiser": "gumbel"}, "unit_norm must be false"),
        ({"quant_conv": False}, "latent_channels and code_dim must be equal, not 4 and 3"),
        ({"pixel_range": (1.0, 0.0)}, "pixel_range must rise"),
        ({"codebook_size": 0}, "codebook_size is 0: it must be at least 1"),
    ],
)
def test_sizes_that_make_no_model_are_refused(changes, told):
    with pytest.raises(InputError, match=told):
        toy(**changes)


def test_images_become_grids_of_codes_and_images_again():
    model = VQGAN(toy()).eval()
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    codes = model.encode(images)
    reconstruction, quantised = model(images)
    assert codes.shape == (2, 8, 8)
    assert torch.equal(quantised.codes, codes)
    assert torch.allclose(model.decode(codes), reconstruction, atol=1e-5)


@pytest.mark.parametrize("unit_norm", [False, True])
def test_the_quantiser_finds_the_nearest_code(unit_norm):
    torch.manual_seed(0)
    quantiser = VectorQuantiser(10, 3, unit_norm)
    torch.nn.init.normal_(quantiser.embedding.weight)
    latents = torch.randn(2, 3, 4, 5)
    rows = latents.permute(0, 2, 3, 1).reshape(-1, 3)
    if unit_norm:
        rows = torch.nn.functional.normalize(rows, dim=1)
    nearest = torch.cdist(rows, quantiser.vectors()).argmin(1).view(2, 4, 5)
    assert torch.equal(quantiser.codes(latents), nearest)


def test_gradient_passes_the_quantiser_straight_through():
    latents = torch.randn(1, 3, 2, 2, requires_grad=True)
    VectorQuantiser(10, 3, False)(latents).latents.sum().backward()
    assert torch.equal(latents.grad, torch.ones_like(latents))


def test_codes_follow_their_latents_and_dead_ones_are_revived():
    torch.manual_seed(0)
    quantiser = VectorQuantiser(4, 2, False)
    follower = CodebookFollower(quantiser, decay=0.5)
    rows = torch.randn(64, 2) + 5
    assert follower.update(quantiser, rows, torch.zeros(64, dtype=torch.long)) == 3
    assert quantiser.vectors().mean() > 3
    for _ in range(12):
        codes = quantiser._nearest_row(rows)
        follower.update(quantiser, rows, codes)
    assert len(codes.unique()) == 4


def test_perplexity_counts_the_codes_in_even_use():
    assert perplexity(torch.tensor([5, 5, 5, 5, 0])) == pytest.approx(4)
    assert perplexity(torch.tensor([9, 0, 0])) == pytest.approx(1)


def test_pixels_survive_the_way_into_the_model_and_back():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    assert torch.equal(to_pixels(to_model(pixels)), pixels)


def test_hinge_loss_is_zero_only_beyond_the_margin():
    assert hinge_loss([torch.tensor([1.5])], [torch.tensor([-1.5])]) == 0
    assert hinge_loss([torch.tensor([0.0])], [torch.tensor([0.0])]) == 1


def test_the_colour_loss_sees_the_hue_of_a_cell_and_not_its_texture():
    real = torch.rand(2, 3, 16, 16)
    texture = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(8, 8)
    assert colour_loss(real + texture, real, 8) == pytest.approx(0, abs=1e-6)
    redder = real + torch.tensor([0.3, 0.0, 0.0]).view(1, 3, 1, 1)
    assert colour_loss(redder, real, 8) == pytest.approx(0.1, abs=1e-6)


def test_the_discriminator_judges_patches_and_sees_the_high_pass():
    assert PatchDiscriminator(8, 2, high_pass=True)(torch.zeros(2, 3, 32, 32)).shape[:2] == (2, 1)


def test_the_discriminator_judges_the_features_of_every_depth():
    network = efficientnet_lite0()
    features = FeatureDiscriminator(network.TAP_WIDTHS, 8)
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    logits = Discriminator(PatchDiscriminator(8, 2, high_pass=False), features)(images, network.taps(images))
    assert [each.shape for each in logits[1:]] == [(2, 1, side, side) for side in (16, 8, 4, 2)]
    assert all(name.startswith("heads.") for name, _ in features.named_parameters())
    assert all(f"mixing{depth}" in features.state_dict() for depth in range(4))


def test_features_cannot_be_judged_without_a_network():
    with pytest.raises(InputError, match="discriminator_features must be 0"):
        VQGANTraining(perceptual=None, discriminator_features=8)


def test_the_adversary_pulls_as_hard_as_the_reconstruction_at_the_last_layer():
    layer = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    weight = adaptive_weight((3 * layer).sum(), (0.5 * layer).sum(), layer)
    assert float(weight) == pytest.approx(6, rel=1e-3)
