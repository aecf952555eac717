"""VQ-GANs of taming-transformers: wherever the autoencoder lies in a checkpoint, and what is refused, by name."""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
yaml = pytest.importorskip("yaml")

from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.export.published.vqgans import read_vqgan  # noqa: E402
from sundae_rt.export.sources import from_checkpoints  # noqa: E402
from sundae_rt.training.vqgan.model import VQGAN, to_model, to_pixels  # noqa: E402
from vqgans import assert_same, behaviour, random_vqgan  # noqa: E402

SHAPES: dict[str, dict[str, Any]] = {
    "two channels a group": {"attention_resolutions": (8,)},
    "one level": {"multipliers": (2,), "residual_blocks": 2, "attention_resolutions": (16,)},
    "three levels": {"channels": 32, "multipliers": (1, 3, 2), "attention_resolutions": (16, 4), "latent_channels": 7},
    "no resampling convolutions": {"multipliers": (1, 2, 2), "resampling_convolutions": False},
    "gumbel": {"quantiser": "gumbel", "latent_channels": 5, "attention_resolutions": (8,)},
}


def weights_of(model: VQGAN) -> dict[str, Any]:
    """A state dict as the published code names it, with a loss in it."""
    gumbel = model.config.quantiser == "gumbel"
    named = {
        name.replace("quantize.embedding.", "quantize.embed.") if gumbel else name: tensor
        for name, tensor in model.state_dict().items()
    }
    return OrderedDict(named | {"loss.discriminator.main.0.weight": torch.zeros(1), "loss.logvar": torch.zeros(())})


def params_of(model: VQGAN) -> dict[str, Any]:
    sizes = model.config
    return {
        "embed_dim": sizes.code_dim,
        "n_embed": sizes.codebook_size,
        "ddconfig": {
            "double_z": False,
            "z_channels": sizes.latent_channels,
            "resolution": sizes.image_size,
            "in_channels": 3,
            "out_ch": 3,
            "ch": sizes.channels,
            "ch_mult": list(sizes.multipliers),
            "num_res_blocks": sizes.residual_blocks,
            "attn_resolutions": list(sizes.attention_resolutions),
            "dropout": 0.0,
            # The published default is left unsaid, as published configs do.
            **({} if sizes.resampling_convolutions else {"resamp_with_conv": False}),
        },
        "lossconfig": {"target": "taming.modules.losses.DummyLoss"},
    }


def config_of(model: VQGAN) -> dict[str, Any]:
    kind = "GumbelVQ" if model.config.quantiser == "gumbel" else "VQModel"
    return {"model": {"target": f"taming.models.vqgan.{kind}", "params": params_of(model)}, "data": {"params": None}}


def read(folder: Path, checkpoint: Any, config: Any) -> VQGAN:
    torch.save(checkpoint, folder / "model.ckpt")
    (folder / "model.yaml").write_text(yaml.safe_dump(config))
    return read_vqgan(folder / "model.ckpt", folder / "model.yaml").model


@pytest.mark.parametrize("shape", SHAPES)
def test_a_checkpoint_of_any_shape_loads(shape: str, tmp_path: Path) -> None:
    model = random_vqgan(**SHAPES[shape])
    assert_same(read(tmp_path, {"state_dict": weights_of(model), "epoch": 3}, config_of(model)), model)


def nested(model: VQGAN, prefix: str) -> dict[str, Any]:
    return {prefix + name: tensor for name, tensor in weights_of(model).items()}


@pytest.mark.parametrize("prefix", ["", "module.", "first_stage_model.", "model.vqgan."])
@pytest.mark.parametrize("holder", [None, "state_dict", "model"])
def test_prefixes_and_holders_do_not_matter(prefix: str, holder: str | None, tmp_path: Path) -> None:
    model = random_vqgan()
    weights = nested(model, prefix)
    assert_same(read(tmp_path, weights if holder is None else {holder: weights, "step": 1}, config_of(model)), model)


def test_the_first_stage_of_a_transformer_loads_though_its_condition_has_an_autoencoder_too(tmp_path: Path) -> None:
    model, other = random_vqgan(), random_vqgan(channels=32, codebook_size=7)
    weights = nested(model, "first_stage_model.") | nested(other, "cond_stage_model.")
    weights["transformer.tok_emb.weight"] = torch.zeros(2, 2)
    stages = {
        "transformer_config": {"target": "taming.modules.transformer.mingpt.GPT", "params": {"vocab_size": 19}},
        "first_stage_config": {"target": "taming.models.vqgan.VQModel", "params": params_of(model)},
        "cond_stage_config": {"target": "taming.models.vqgan.VQModel", "params": params_of(other)},
    }
    config = {"model": {"target": "taming.models.cond_transformer.Net2NetTransformer", "params": stages}}
    assert_same(read(tmp_path, {"state_dict": weights}, config), model)


def averages_of(model: VQGAN) -> dict[str, Any]:
    """The same weights as latent diffusion keeps their averages: under names without dots."""
    own = {f"module.model_ema.{name.replace('.', '')}": tensor for name, tensor in model.named_parameters()}
    return own | {"module.model_ema.decay": torch.tensor(0.9999), "module.model_ema.num_updates": torch.tensor(3)}


def test_averages_beside_the_weights_or_among_them_are_ignored_and_named(tmp_path: Path) -> None:
    model, other = random_vqgan(), random_vqgan(codebook_size=7)
    beside = {"ema": weights_of(other), "state_dict": nested(model, "module.") | averages_of(model)}
    torch.save(beside, tmp_path / "model.ckpt")
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(config_of(model)))
    found = read_vqgan(tmp_path / "model.ckpt", tmp_path / "model.yaml")
    assert_same(found.model, model)
    (note,) = found.notes
    assert note.endswith("model.ckpt: the averaged weights under ema, state_dict.module.model_ema are ignored")
    assert_same(read(tmp_path, {"ema": weights_of(model), "step": 3}, config_of(model)), model)


@pytest.mark.parametrize("other", ["best", "model"])
def test_two_models_of_which_neither_is_an_average_are_refused(other: str, tmp_path: Path) -> None:
    model = random_vqgan()
    with pytest.raises(InputError, match=rf"holds 2 such models, under 'state_dict.' and '{other}.': keep one"):
        read(tmp_path, {"state_dict": weights_of(model), other: weights_of(model)}, config_of(model))


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    model = random_vqgan()
    found = read(tmp_path, {name: tensor.half() for name, tensor in weights_of(model).items()}, config_of(model))
    assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}


def test_missing_and_unexpected_weights_are_named(tmp_path: Path) -> None:
    model = random_vqgan()
    weights = weights_of(model)
    weights["encoder.more.weight"] = weights.pop("encoder.conv_in.weight")
    with pytest.raises(InputError, match=r"missing weights encoder\.conv_in\.weight; unexpected weights encoder\.more"):
        read(tmp_path, weights, config_of(model))


@pytest.mark.parametrize("shape", ["one level", "gumbel"])
def test_weights_that_are_no_numbers_are_refused_by_file_and_name(shape: str, tmp_path: Path) -> None:
    model = random_vqgan(**SHAPES[shape])
    weights = {name: tensor.clone() for name, tensor in weights_of(model).items()}
    weights["loss.logvar"] = torch.tensor(torch.nan)  # which is not of the model
    assert_same(read(tmp_path, weights, config_of(model)), model)
    name = "quantize.embed.weight" if shape == "gumbel" else "quantize.embedding.weight"
    weights[name][2, 1] = torch.inf
    with pytest.raises(InputError, match=rf"^\S*model\.ckpt: {name} holds values that are no finite numbers$"):
        read(tmp_path, weights, config_of(model))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("n_embed", 20, r"model.ckpt does not fit .*model.yaml: quantize.embedding.weight is \[19, 5\], .* \[20, 5\]"),
        ("embed_dim", 4, r"model.ckpt does not fit .*model.yaml: .* asks for"),
        ("ch", 32, r"model.ckpt does not fit .*model.yaml: .* asks for"),
        ("ch_mult", [1, 2, 2], r"missing weights decoder.up.2.block.0"),
        ("num_res_blocks", 2, r"missing weights decoder.up.0.block.2"),
        ("attn_resolutions", [8], r"missing weights decoder.up.1.attn.0"),
        ("ch", 48, r"model.yaml: model.params.ddconfig: norm_groups 32 must divide"),
        ("ch", "wide", r"model.yaml: model.params.ddconfig: ch must be a whole number .* not 'wide'"),
        ("ch_mult", [], r"multipliers must be"),
        (
            "resolution",
            15,
            r"model.yaml: model.params.ddconfig: resolution must be a multiple of f = 2, not 15: put 14",
        ),
        ("resolution", 1, r"resolution must be a multiple of f = 2, not 1: put 2 in its place"),
        ("double_z", True, r"double_z = True is not supported"),
        ("resamp_with_conv", False, r"missing weights none; unexpected weights decoder\.up\.1\.upsample\.conv\.bias"),
        ("resamp_with_conv", 0, r"model.yaml: model.params.ddconfig: resamp_with_conv = 0 is not supported"),
        ("in_channels", 1, r"in_channels = 1 is not supported"),
        ("remap", "used.npy", r"remap = 'used.npy' is not supported: take it out, and the bundle has all 19 codes"),
    ],
)
def test_a_config_that_contradicts_the_weights_is_refused_naming_both(
    key: str, value: Any, told: str, tmp_path: Path
) -> None:
    model = random_vqgan()
    config = copy.deepcopy(config_of(model))
    params = config["model"]["params"]
    (params["ddconfig"] if key in params["ddconfig"] or key == "resamp_with_conv" else params)[key] = value
    with pytest.raises(InputError, match=told):
        read(tmp_path, weights_of(model), config)


@pytest.mark.parametrize("shape", ["one level", "gumbel"])
def test_without_remap_codes_have_the_codebooks_numbers_whatever_was_remapped_before(
    shape: str, tmp_path: Path
) -> None:
    model = random_vqgan(**SHAPES[shape])
    config = config_of(model)
    config["model"]["params"] |= {
        "remap": None,
        "sane_index_shape": True,
    }  # the latter only shapes the published output
    weights = weights_of(model) | {"quantize.used": torch.tensor([3, 1, 4])}
    assert_same(read(tmp_path, weights, config), model)


def test_what_a_refused_resolution_is_told_to_become_loads_and_takes_any_size(tmp_path: Path) -> None:
    # The published code halves 30 to 15 to 7 on the way down, and doubles 7 to 14 to 28 on the way up.
    model = random_vqgan(image_size=28, multipliers=(1, 2, 2), attention_resolutions=(7,))
    config = config_of(model)
    config["model"]["params"]["ddconfig"]["resolution"] = 30
    with pytest.raises(InputError, match=r"multiple of f = 4, not 30: put 28 in its place; .* --image-size") as refused:
        read(tmp_path, weights_of(model), config)
    assert "\n" not in str(refused.value)
    config["model"]["params"]["ddconfig"]["resolution"] = 28
    found = read(tmp_path, weights_of(model), config)
    for wanted, ours in zip(behaviour(model, 32), behaviour(found, 32), strict=True):
        torch.testing.assert_close(ours, wanted)
    sizes = from_checkpoints(None, tmp_path / "model.ckpt", vqgan_config=tmp_path / "model.yaml", image_size=(32, 20))
    assert (sizes.image_size, sizes.latent_grid) == ((32, 20), (8, 5))


def test_weights_without_resampling_convolutions_need_a_config_that_says_so(tmp_path: Path) -> None:
    model = random_vqgan(resampling_convolutions=False)
    config = config_of(model)
    del config["model"]["params"]["ddconfig"]["resamp_with_conv"]
    told = r"missing weights decoder\.up\.1\.upsample\.conv\.bias, .* encoder\.down\.0\.downsample\.conv\.weight; unex"
    with pytest.raises(InputError, match=told):
        read(tmp_path, weights_of(model), config)


def test_a_vqgan_without_resampling_convolutions_runs_from_a_bundle(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    import sundae_rt
    from sundae_rt.export import export_checkpoint

    model = random_vqgan(resampling_convolutions=False)
    read(tmp_path, weights_of(model), config_of(model))
    files = {"vqgan": tmp_path / "model.ckpt", "vqgan_config": tmp_path / "model.yaml"}
    bundle = export_checkpoint(**files, out=tmp_path / "bundle", say=lambda line: None)
    codes = torch.arange(2 * 64).view(2, 8, 8) % 19
    with sundae_rt.load(bundle, threads=1, variant="fp32") as runtime, torch.no_grad():
        found, wanted = torch.from_numpy(runtime.decode(codes.numpy())), to_pixels(model.decode(codes))
        assert (found.int() - wanted.int()).abs().max() <= 1
        nearest = model.encode(to_model(found))
        assert (torch.from_numpy(runtime.encode(found.numpy())) == nearest).float().mean() > 0.98


@pytest.mark.parametrize(("target", "shape"), [("GumbelVQ", "one level"), ("VQModel", "gumbel")])
def test_a_target_of_the_other_quantiser_is_refused(target: str, shape: str, tmp_path: Path) -> None:
    model = random_vqgan(**SHAPES[shape])
    config = config_of(model)
    config["model"]["target"] = f"taming.models.vqgan.{target}"
    with pytest.raises(InputError, match=rf"model.yaml says target .*{target}, but .*model.ckpt has"):
        read(tmp_path, weights_of(model), config)


class Callback:
    """What Lightning pickles beside the weights."""


def test_nothing_but_tensors_is_unpickled_and_the_message_says_how_to_strip(tmp_path: Path) -> None:
    model = random_vqgan()
    with pytest.raises(InputError, match=r"Callback.*runs nothing either: \S+ -m sundae_rt.training.strip \S+ \S+"):
        read(tmp_path, {"state_dict": weights_of(model), "callbacks": Callback()}, config_of(model))


def test_a_yaml_runs_no_code(tmp_path: Path) -> None:
    torch.save(weights_of(random_vqgan()), tmp_path / "model.ckpt")
    (tmp_path / "model.yaml").write_text("model: !!python/object/apply:os.getcwd []")
    with pytest.raises(InputError, match=r"cannot read .*model.yaml as yaml"):
        read_vqgan(tmp_path / "model.ckpt", tmp_path / "model.yaml")


def test_a_config_without_an_autoencoder_and_a_checkpoint_without_a_config_are_refused(tmp_path: Path) -> None:
    model = random_vqgan()
    with pytest.raises(InputError, match="must describe one autoencoder"):
        read(tmp_path, weights_of(model), {"model": {"params": {}}})
    with pytest.raises(InputError, match="give its yaml with --vqgan-config"):
        read_vqgan(tmp_path / "model.ckpt", None)


def test_a_file_of_another_kind_is_refused_saying_what_is_known(tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"no VQ-GAN that is known: taming.*unleashing.*diffusers.*layer\.weight"):
        read_vqgan(tmp_path / "other.pt", None)
