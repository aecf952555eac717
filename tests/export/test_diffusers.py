"""VQ-GANs of diffusers: folders of other block types, widths and groups; and what is refused."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("yaml")

from safetensors.torch import save_file  # noqa: E402

from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.export.published.vqgans import read_vqgan  # noqa: E402
from sundae_rt.export.sources import Sources  # noqa: E402
from sundae_rt.training.vqgan.model import VQGAN  # noqa: E402
from vqgans import assert_same, random_vqgan  # noqa: E402

SHAPES: dict[str, dict[str, Any]] = {
    "attention in both": {"attention_resolutions": (8,), "norm_groups": 8},
    "attention in the decoder alone": {"decoder_attention_resolutions": (16,), "norm_groups": 16},
    "no attention at all": {"middle_attention": False, "residual_blocks": 2},
    "widths of no common multiple": {"channels": 8, "multipliers": (3, 2, 5), "stem_multiplier": 3, "norm_groups": 4},
}


def weights_of(model: VQGAN) -> dict[str, Any]:
    """A state dict as diffusers names it."""
    last = len(model.config.multipliers) - 1
    found = {}
    for name, tensor in model.state_dict().items():
        name = re.sub(r"decoder\.up\.(\d+)", lambda match: f"decoder.up_blocks.{last - int(match[1])}", name)
        name = name.replace(".down.", ".down_blocks.").replace(".norm_out.", ".conv_norm_out.")
        name = name.replace("mid.block_1", "mid_block.resnets.0").replace("mid.block_2", "mid_block.resnets.1")
        name = name.replace("mid.attn_1", "mid_block.attentions.0")
        name = name.replace(".block.", ".resnets.").replace(".attn.", ".attentions.")
        name = name.replace("downsample.", "downsamplers.0.").replace("upsample.", "upsamplers.0.")
        name = name.replace("nin_shortcut", "conv_shortcut")
        if ".attentions." in name:
            head, _, part = name.rpartition(".attentions.")
            index, layer, kind = part.split(".")
            layer = {"norm": "group_norm", "proj_out": "to_out.0"}.get(layer, f"to_{layer}")
            name, tensor = (
                f"{head}.attentions.{index}.{layer}.{kind}",
                tensor.flatten(1) if tensor.ndim == 4 else tensor,
            )
        found[name] = tensor.contiguous()
    return found


def config_of(model: VQGAN) -> dict[str, Any]:
    sizes = model.config
    sides = [sizes.image_size // 2**level for level in range(len(sizes.multipliers))]
    up = sizes.attention_resolutions
    if sizes.decoder_attention_resolutions is not None:
        up = sizes.decoder_attention_resolutions
    return {
        "_class_name": "VQModel",
        "act_fn": "silu",
        "block_out_channels": [sizes.channels * multiplier for multiplier in sizes.multipliers],
        "down_block_types": [f"{'Attn' * (side in sizes.attention_resolutions)}DownEncoderBlock2D" for side in sides],
        "up_block_types": [f"{'Attn' * (side in up)}UpDecoderBlock2D" for side in reversed(sides)],
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": sizes.latent_channels,
        "layers_per_block": sizes.residual_blocks,
        "lookup_from_codebook": True,
        "mid_block_add_attention": sizes.middle_attention,
        "norm_num_groups": sizes.norm_groups,
        "norm_type": "group",
        "num_vq_embeddings": sizes.codebook_size,
        "sample_size": sizes.image_size,
        "scaling_factor": 0.18215,
        "vq_embed_dim": None if sizes.code_dim == sizes.latent_channels else sizes.code_dim,
    }


def write(folder: Path, weights: Any, config: Any) -> Path:
    save_file(weights, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("shape", SHAPES)
def test_a_folder_of_any_shape_loads(shape: str, tmp_path: Path) -> None:
    model = random_vqgan(**SHAPES[shape])
    assert math.gcd(*model.config.multipliers) == 1
    assert_same(read_vqgan(write(tmp_path, weights_of(model), config_of(model)), None).model, model)


def test_codes_without_a_width_of_their_own_are_as_wide_as_the_latents(tmp_path: Path) -> None:
    model = random_vqgan(latent_channels=5)
    folder = write(tmp_path, weights_of(model), config_of(model))
    assert json.loads((folder / "config.json").read_text())["vq_embed_dim"] is None
    assert_same(read_vqgan(folder, None).model, model)


def test_older_names_of_attention_load(tmp_path: Path) -> None:
    model = random_vqgan(attention_resolutions=(8,))
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = {}
    for name, tensor in weights_of(model).items():
        for new, old in older.items():
            name = name.replace(f".{new}.", f".{old}.")
        weights[name] = tensor
    assert_same(read_vqgan(write(tmp_path, weights, config_of(model)), None).model, model)


@pytest.mark.parametrize(
    ("value", "side"),
    [(31, 32), (None, 32), ([], 32), ([16, 16], 16), ([8, 24], 24), (2, 2), (16, 16), ("absent", 32)],
)
def test_a_sample_size_is_nominal(value: Any, side: int, tmp_path: Path) -> None:
    model = random_vqgan(attention_resolutions=(8,))
    config = config_of(model) | {"sample_size": value}
    if value == "absent":
        del config["sample_size"]
    found = read_vqgan(write(tmp_path, weights_of(model), config), None)
    assert found.model.config.image_size == side
    assert_same(found.model, model)
    if value in (16, [16, 16], "absent"):
        assert not found.notes
    else:
        told = rf"config.json: sample_size = .* nominal: images have {side}x{side} pixels, .* unless --image-size"
        assert re.search(told, found.notes[0])
        assert Sources(None, found).notes == found.notes
    assert Sources(None, found, (24, 40)).latent_grid == (12, 20)


@pytest.mark.parametrize("value", [0, True, "32", [16, "16"]])
def test_a_sample_size_that_is_no_size_is_refused(value: Any, tmp_path: Path) -> None:
    model = random_vqgan()
    with pytest.raises(InputError, match=r"config.json: sample_size must be a whole number from 1 to"):
        read_vqgan(write(tmp_path, weights_of(model), config_of(model) | {"sample_size": value}), None)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("_class_name", "AutoencoderKL", "_class_name = 'AutoencoderKL' is not supported, only VQModel is"),
        ("norm_type", "spatial", "norm_type = 'spatial' is not supported"),
        ("act_fn", "gelu", "act_fn = 'gelu' is not supported"),
        ("down_block_types", ["DownBlock2D"] * 2, "down_block_types must be a list of DownEncoderBlock2D or Attn"),
        ("up_block_types", ["UpDecoderBlock2D"], "up_block_types must be 2 types, as many as block_out_channels"),
        ("up_block_types", ["AttnUpDecoderBlock2D"] * 2, r"missing weights decoder.up_blocks.0.attentions.0"),
        ("norm_num_groups", 48, "norm_groups 48 must divide"),
        ("num_vq_embeddings", 20, r"does not fit .*config.json: quantize.embedding.weight is \[19, 5\]"),
        ("mid_block_add_attention", False, r"unexpected weights decoder.mid_block.attentions.0"),
    ],
)
def test_what_is_not_such_a_model_or_contradicts_its_weights_is_refused(
    key: str, value: Any, told: str, tmp_path: Path
) -> None:
    model = random_vqgan()
    folder = write(tmp_path, weights_of(model), config_of(model) | {key: value})
    with pytest.raises(InputError, match=told):
        read_vqgan(folder, None)


def test_a_folder_without_weights_and_a_pipeline_around_it_say_what_to_name(tmp_path: Path) -> None:
    part = tmp_path / "vqvae"
    part.mkdir()
    (part / "config.json").write_text(json.dumps(config_of(random_vqgan())))
    with pytest.raises(InputError, match=r"name its VQ-GAN: .*vqvae"):
        read_vqgan(tmp_path, None)
    with pytest.raises(InputError, match=r"must hold one diffusion_pytorch_model.safetensors, and holds none"):
        read_vqgan(part, None)
    for index in range(24):
        (part / f"diffusion_pytorch_model-{index + 1:05}-of-00024.safetensors").touch()
    with pytest.raises(InputError, match=r"00006-of-00024\.safetensors and 18 more: .* larger max_shard_size"):
        read_vqgan(part, None)
