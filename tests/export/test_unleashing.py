"""The VQ-GAN of unleashing-transformers: flat lists of blocks, whatever the sizes; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("yaml")

from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.export.published.vqgans import read_vqgan  # noqa: E402
from sundae_rt.training.vqgan.layers import ResnetBlock  # noqa: E402
from sundae_rt.training.vqgan.model import VQGAN  # noqa: E402
from vqgans import assert_same, random_vqgan  # noqa: E402

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {"multipliers": (1, 2)},
    "deep": {"channels": 32, "multipliers": (2, 1, 3), "residual_blocks": 2, "attention_resolutions": (16, 4)},
    "one level": {"multipliers": (1,), "attention_resolutions": (16,), "pixel_range": (-1.0, 1.0)},
    "gumbel": {"quantiser": "gumbel"},
}


def model_of(shape: str) -> VQGAN:
    sizes = {"latent_channels": 5, "quant_conv": False, "final_activation": False, "pixel_range": (0.0, 1.0)}
    sizes |= SHAPES[shape]
    return random_vqgan(**sizes, decoder_blocks=sizes.get("residual_blocks", 1))


def weights_of(model: VQGAN) -> dict[str, Any]:
    """A state dict as the published code names it: block by block in the order in which they run."""
    order: list[torch.nn.Module] = []

    def run(module: torch.nn.Module, *_: Any) -> None:
        order.append(module)

    leaves = ("block", "attn", "mid.", "downsample", "upsample", "norm_out", "conv_in", "conv_out")
    found = {}
    for ours, theirs in (("encoder", "encoder"), ("decoder", "generator")):
        order.clear()
        network = getattr(model, ours)
        names = {}
        for name, module in network.named_modules():
            last = name.rpartition(".")[2]
            is_block = type(module).__name__ in ("ResnetBlock", "AttnBlock", "Downsample", "Upsample")
            if is_block or (("." not in name) and last in leaves):
                names[module] = name
                module.register_forward_hook(run)
        side = 16 if ours == "encoder" else model.config.latent_side
        network(torch.zeros(1, 3 if ours == "encoder" else model.config.latent_channels, side, side))
        for index, module in enumerate(order):
            state = {name.replace("nin_shortcut", "conv_out"): value for name, value in module.state_dict().items()}
            if isinstance(module, ResnetBlock) and "conv_out.weight" not in state:
                state |= {"conv_out.weight": torch.zeros(1), "conv_out.bias": torch.zeros(1)}  # owned, never used
            found |= {f"ae.{theirs}.blocks.{index}.{name}": tensor for name, tensor in state.items()}
    gumbel = model.config.quantiser == "gumbel"
    for name, tensor in model.quantize.state_dict().items():
        found[f"ae.quantize.{name.replace('embedding', 'embed') if gumbel else name}"] = tensor
    return found | {"ae.generator.logsigma.0.weight": torch.zeros(1), "disc.main.0.weight": torch.zeros(1)}


def config_of(model: VQGAN) -> dict[str, Any]:
    sizes = model.config
    return {
        "n_channels": 3,
        "nf": sizes.channels,
        "res_blocks": sizes.residual_blocks,
        "codebook_size": sizes.codebook_size,
        "emb_dim": sizes.code_dim,
        "ch_mult": list(sizes.multipliers),
        "img_size": sizes.image_size,
        "attn_resolutions": list(sizes.attention_resolutions),
        "quantizer": sizes.quantiser,
        "latent_shape": [1, sizes.latent_side, sizes.latent_side],
        "input_range": list(sizes.pixel_range),
    }


def read(folder: Path, weights: Any, config: Any) -> VQGAN:
    torch.save(weights, folder / "model.th")
    (folder / "model.json").write_text(json.dumps(config))
    return read_vqgan(folder / "model.th", folder / "model.json").model


@pytest.mark.parametrize("shape", SHAPES)
def test_a_checkpoint_of_any_shape_loads(shape: str, tmp_path: Path) -> None:
    model = model_of(shape)
    found = read(tmp_path, weights_of(model), config_of(model))
    assert_same(found, model)
    assert found.config.pixel_range == model.config.pixel_range


def test_pixels_lie_between_nought_and_one_unless_the_config_says_otherwise(tmp_path: Path) -> None:
    model = model_of("plain")
    config = config_of(model)
    del config["input_range"], config["latent_shape"], config["quantizer"]
    assert read(tmp_path, weights_of(model), config).config.pixel_range == (0.0, 1.0)


def test_missing_and_unexpected_weights_are_named(tmp_path: Path) -> None:
    model = model_of("plain")
    weights = weights_of(model)
    weights["ae.encoder.blocks.99.weight"] = weights.pop("ae.encoder.blocks.0.bias")
    with pytest.raises(InputError, match=r"missing weights encoder.blocks.0.bias; unexpected .* encoder.blocks.99.wei"):
        read(tmp_path, weights, config_of(model))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("codebook_size", 20, r"model.th does not fit .*model.json: quantize.embedding.weight is \[19, 5\]"),
        ("quantizer", "gumbel", r"missing weights quantize.embed.weight, quantize.proj"),
        ("res_blocks", 2, r"model.th does not fit .*model.json: missing weights"),
        ("latent_shape", [1, 4, 4], r"model.json: latent_shape must be \[1, 8, 8\] by its img_size and ch_mult"),
        ("quantizer", "other", r"quantizer = 'other' is not supported, only nearest or gumbel is"),
        ("input_range", "0..1", r"input_range must be two numbers"),
        ("input_range", [1, 0], r"pixel_range must rise"),
    ],
)
def test_a_config_that_contradicts_the_weights_is_refused(key: str, value: Any, told: str, tmp_path: Path) -> None:
    model = model_of("plain")
    with pytest.raises(InputError, match=told):
        read(tmp_path, weights_of(model), config_of(model) | {key: value})
