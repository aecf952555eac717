"""Priors of the paper's own code give its logits and chains, in PyTorch and from a bundle; misfits are named."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import reference  # noqa: E402
import sundae_rt  # noqa: E402
from sundae_rt.cli import run  # noqa: E402
from sundae_rt.errors import BundleError, InputError  # noqa: E402
from sundae_rt.export import export_checkpoint  # noqa: E402
from sundae_rt.export.published import hourglass  # noqa: E402
from sundae_rt.export.published.labels import true_classes  # noqa: E402
from sundae_rt.export.published.priors import read_prior  # noqa: E402
from sundae_rt.training.prior.hourglass import HourglassConfig, HourglassPrior  # noqa: E402

REFERENCES = ["prior-tiny", "prior-cond-tiny", "prior-nested-tiny"]
LOGITS = 2e-5


def quiet(line):
    pass


@pytest.fixture(scope="module", params=REFERENCES)
def published(request, tmp_path_factory):
    """A reference prior in PyTorch, a runtime on its bundle, and what the published code made of it."""
    name = request.param
    path, config = reference.path(f"{name}.pt"), reference.path(f"{name}.toml")
    bundle = export_checkpoint(
        path, config=config, out=tmp_path_factory.mktemp("bundles") / name, logits=True, say=quiet
    )
    with sundae_rt.load(bundle, variant="fp32") as runtime:
        yield read_prior(path, config), runtime, reference.recorded(name)


def test_pytorch_has_the_published_logits(published):
    found, _, recorded = published
    labels = torch.from_numpy(recorded["labels"]) if "labels" in recorded else None
    with torch.no_grad():
        logits = found.model(torch.from_numpy(recorded["tokens"]), labels).numpy()
    assert np.abs(logits - recorded["logits"]).max() <= LOGITS


def test_the_bundle_has_the_published_logits(published):
    _, runtime, recorded = published
    height, width = runtime.manifest.latent_grid
    logits = runtime.logits(recorded["tokens"].reshape(-1, height, width), label=labels_of(recorded))
    assert np.abs(logits.reshape(recorded["logits"].shape) - recorded["logits"]).max() <= LOGITS


@pytest.mark.parametrize("chain", ["greedy", "inpaint", "sampled", "trace"])
def test_the_bundle_takes_the_published_steps(published, chain):
    _, runtime, recorded = published
    steps = len(recorded[f"{chain}_states"]) - 1
    places = recorded["tokens"].shape
    temperature, uniform, update = np.zeros(steps), np.zeros((steps, *places)), np.ones((steps, *places), bool)
    if chain == "inpaint":
        update = update & ~recorded["keep"]
    elif chain == "sampled":
        temperature, uniform, update = (recorded[name] for name in ("temperature", "uniform", "update"))
    elif chain == "trace":
        temperature, uniform = recorded["trace_temperature"], recorded["trace_value_uniform"]
        update = recorded["trace_update_uniform"] <= recorded["trace_proportion"][:, None, None]
        update = update & recorded["trace_active"][:, :, None]
    grid = (-1, *runtime.manifest.latent_grid)
    codes = recorded[f"{chain}_states"][0].reshape(grid)
    for step, wanted in enumerate(recorded[f"{chain}_states"][1:]):
        codes, _, _ = runtime.denoise(
            codes,
            float(temperature[step]),
            uniform[step].reshape(grid),
            update[step].reshape(grid),
            label=labels_of(recorded),
        )
        assert np.array_equal(codes, wanted.reshape(grid)), f"step {step}"


def test_the_config_gives_the_default_schedule(published):
    _, runtime, _ = published
    schedule = runtime.manifest.default_schedule
    assert (schedule.steps, schedule.temperature, schedule.proportion) == (24, (0.9, 0.4), (0.6, 0.3))
    assert schedule.min_steps == 10


def test_a_prior_alone_says_which_half_is_missing(published):
    with pytest.raises(BundleError, match=r"no decoder graph.*--vqgan"):
        published[1].generate()


def labels_of(recorded):
    return recorded["labels"].tolist() if "labels" in recorded else None


def write(folder, config, prefix="", change=lambda settings, net: None):
    """A random model of these sizes as the published code saves it, with its config; returns both paths."""
    torch.manual_seed(0)
    prior = HourglassPrior(config)
    for parameter in prior.parameters():
        parameter.data.normal_(0.2, 0.2)
    net = {hourglass._published(name): tensor for name, tensor in prior.state_dict().items()}
    for name, frequencies in hourglass._frequencies(prior).items():
        net[name] = torch.ones(16) if frequencies is None else frequencies
    height, width = config.latent_grid
    settings = {
        "data": {"vocab_size": config.vocabulary, "sequence_length": height * width},
        "vqgan": {"latent_shape": [height, width]},
        "sampling": {"steps": 6, "temperature": 1.0},
        "net": {
            "type": "hourglass",
            "dim": config.dims[0],
            "nb_heads": config.heads[0],
            "shorten_factor": config.shorten,
            "depth": config.depth,
            "use_rotary": config.positions != "learned",
            "conditional": config.labels > 0,
            "num_classes": config.labels,
        },
    }
    change(settings, net)
    moments = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}
    torch.save({"net": {prefix + name: tensor for name, tensor in net.items()}, "opt": moments}, folder / "prior.pt")
    (folder / "config.toml").write_text(
        "\n".join(
            f"[{section}]\n" + "\n".join(f"{key} = {toml(value)}" for key, value in values.items())
            for section, values in settings.items()
        )
    )
    return folder / "prior.pt", folder / "config.toml"


def toml(value):
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(toml, value))}]"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def sizes(**changes):
    values = {
        "vocabulary": 13,
        "latent_grid": (8, 8),
        "depth": (1, 2, 1),
        "dims": (24,),
        "heads": (3,),
        **HourglassConfig.PUBLISHED,
    }
    return HourglassConfig(**(values | changes))


OTHERS = {
    "shorten 9": sizes(latent_grid=(12, 12), shorten=9, depth=(2, 1, 0), labels=7),
    "shorten 16": sizes(vocabulary=50, shorten=16, heads=(1,), dims=(40,)),
    "three deep": sizes(depth=(1, (1, (0, 1, 1), 1), 1), labels=2),
    "factors by level": sizes(latent_grid=(12, 12), depth=(0, (1, 2, 1), 1), shorten=(4, 9)),
    "learned positions": sizes(positions="learned"),
}


@pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS)
def test_other_sizes_are_read_from_config_and_weights(config, tmp_path):
    found = read_prior(*write(tmp_path, config)).model.config
    shorten = (config.shorten,) * config.nesting if isinstance(config.shorten, int) else config.shorten
    assert found == dataclasses.replace(config, shorten=shorten)


@pytest.mark.parametrize("name", ["shorten 9", "three deep", "factors by level"])
def test_other_sizes_run_from_a_bundle(name, tmp_path):
    config = OTHERS[name]
    path, settings = write(tmp_path, config)
    bundle = export_checkpoint(path, config=settings, out=tmp_path / "bundle", say=quiet)
    codes = np.random.default_rng(0).integers(0, config.vocabulary, (2, *config.latent_grid))
    label = [1, 0] if config.labels else None
    everywhere = np.ones(codes.shape, bool)
    with sundae_rt.load(bundle, variant="fp32") as runtime, torch.no_grad():
        _, _, confidence = runtime.denoise(codes, 1.0, np.zeros(codes.shape), everywhere, label=label)
        flat = torch.from_numpy(codes).flatten(1)
        logits = read_prior(path, settings).model(flat, torch.tensor(label) if label else None)
    wanted = logits.softmax(-1).gather(-1, flat[..., None])
    assert np.abs(confidence.reshape(2, -1, 1) - wanted.numpy()).max() <= LOGITS


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "_orig_mod.module."])
def test_a_wrappers_prefix_does_not_matter(prefix, tmp_path):
    plain, wrapped = tmp_path / "plain", tmp_path / "wrapped"
    plain.mkdir()
    wrapped.mkdir()
    one = read_prior(*write(plain, sizes())).model.state_dict()
    other = read_prior(*write(wrapped, sizes(), prefix)).model.state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def setting(section, key, value):
    return lambda settings, net: settings[section].update({key: value})


def weight(name, tensor=None):
    return lambda settings, net: net.pop(name) if tensor is None else net.update({name: tensor})


QUERY = "transformer.pre_transformer.layers.0.0.fn.to_q.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (setting("data", "vocab_size", 14), r"vocab_size = 14, but .*prior.pt has 13"),
        (setting("net", "dim", 32), r"dim = 32, but .* has 24"),
        (setting("net", "nb_heads", 4), r"nb_heads = 4, but .* has 3 \(192 rows of .*to_q.weight by 64\)"),
        (setting("net", "depth", [1, 3, 1]), r"depth = \[1, 3, 1\], but .* has \[1, 2, 1\]"),
        (setting("net", "depth", [1, [1, 2, 1], 1]), r"depth = \[1, \[1, 2, 1\], 1\], but .* has \[1, 2, 1\]"),
        (setting("net", "shorten_factor", 9), r"shorten_factor = \[9\], but .* has \[4\]"),
        (setting("net", "conditional", True), r"conditional = true, but .* has false"),
        (setting("net", "use_rotary", False), r"use_rotary = false, but .* has true"),
        (setting("net", "type", "vanilla"), "type = 'vanilla' is not read"),
        (setting("net", "dim", "wide"), r"\[net\] dim = 'wide' is of the wrong type"),
        (setting("data", "sequence_length", 60), "sequence_length = 60 is no square grid"),
        (setting("data", "sequence_length", 256), r"sequence_length = 256, a grid of 16x16, but .* = \[8, 8\]"),
        (setting("vqgan", "latent_shape", [4, 16]), r"a grid of 8x8, but .*latent_shape = \[4, 16\]"),
        (
            lambda settings, net: (settings.pop("vqgan"), settings["data"].update(sequence_length=256)),
            "valley_transformer.rotary_pos_emb.freqs runs to 2 pi, but .* run to 4 pi",
        ),
        (setting("sampling", "temperature", -1.0), r"\[sampling\]: temperature"),
        (
            weight("transformer.norm_out.bias"),
            r"prior.pt does not fit .*config.toml: missing weights transformer.norm_out.bias; ",
        ),
        (
            weight("transformer.pre_transformer.rotary_pos_emb.freqs"),
            r"missing weights transformer\.pre_transformer\.rotary",
        ),
        (weight("extra.bias", torch.zeros(2)), r"missing weights none; unexpected weights extra.bias$"),
        (weight(QUERY, torch.zeros(100, 24)), "100 rows, which do not divide into heads of 64"),
        (weight("to_logits.bias", torch.zeros(5)), r"config.toml: to_logits.bias is \[5\], the config asks for \[13\]"),
        (
            weight("transformer.pre_transformer.rotary_pos_emb.freqs", torch.full((16,), torch.nan)),
            "freqs runs to nan pi",
        ),
        (weight("transformer.downsample.proj.weight", torch.zeros(24)), r"proj.weight is \[24\], which is not 2 axes"),
        (weight("token_emb.weight"), "no published prior that is known"),
    ],
)
def test_what_contradicts_is_refused_naming_both_sides(change, words, tmp_path):
    with pytest.raises(InputError, match=words):
        read_prior(*write(tmp_path, sizes(), change=change))


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_weights_that_are_no_numbers_are_refused_by_file_and_name(value, tmp_path):
    def change(settings, net):
        net[QUERY][3, 5] = value

    with pytest.raises(InputError, match=rf"^\S*prior\.pt: {QUERY} holds values that are no finite numbers$"):
        read_prior(*write(tmp_path, sizes(), change=change))


def test_what_is_never_used_may_hold_anything(tmp_path):
    name = "transformer.attn_resampling_pre_valley.rotary_pos_emb.freqs"
    read_prior(*write(tmp_path, sizes(), change=weight(name, torch.full((16,), torch.nan))))


def test_many_unexpected_weights_are_counted_not_listed(tmp_path):
    def change(settings, net):
        net.update({f"extra.{index:02}.bias": torch.zeros(1) for index in range(40)})

    with pytest.raises(InputError, match=r"unexpected weights extra\.00\.bias, .*, extra\.05\.bias and 34 more$"):
        read_prior(*write(tmp_path, sizes(), change=change))


def test_a_grid_that_the_hourglass_does_not_divide_is_refused(tmp_path):
    def change(settings, net):
        settings["data"]["sequence_length"], settings["vqgan"]["latent_shape"] = 49, [7, 7]

    with pytest.raises(InputError, match="does not divide by 2"):
        read_prior(*write(tmp_path, sizes(), change=change))


def test_two_models_in_one_file_are_refused(tmp_path):
    path, config = write(tmp_path, sizes(), change=weight("other.token_emb.weight", torch.zeros(13, 24)))
    with pytest.raises(InputError, match=r"2 such models, under 'net\.' and 'net\.other\.'"):
        read_prior(path, config)


@pytest.mark.parametrize("name", ["ema", "net_ema", "EMA"])
def test_averages_beside_net_are_ignored_and_named(name, tmp_path):
    path, config = write(tmp_path, sizes())
    values = torch.load(path, weights_only=True)
    average = {name: torch.zeros_like(tensor) for name, tensor in values["net"].items()}
    torch.save({name: average, **values}, path)
    found = read_prior(path, config)
    assert torch.equal(found.model.code_embedding.weight, values["net"]["token_emb.weight"])
    assert found.notes == (f"{path}: the averaged weights under {name} are ignored",)


def test_string_order_is_that_of_the_folders_of_a_published_run():
    assert true_classes(12, "string") == [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
    assert true_classes(1000, "string")[:5] == [0, 1, 10, 100, 101]
    assert true_classes(3, "index") == [0, 1, 2]


def test_a_label_means_the_true_class_whatever_order_the_run_had(tmp_path):
    path, config = write(tmp_path, sizes(labels=12))
    (tmp_path / "names.txt").write_text("\n".join(f"kind {index}" for index in range(12)))
    found = read_prior(path, config)
    mapped = read_prior(path, config, label_order="string", label_names=tmp_path / "names.txt")
    rows, true_rows = found.model.label_embedding.weight, mapped.model.label_embedding.weight
    assert torch.equal(true_rows[10], rows[2])
    assert torch.equal(true_rows[9], rows[11])
    assert found.labels[10] == "10"
    assert mapped.labels[10] == "kind 10"


def test_names_that_are_not_one_for_each_class_are_refused(tmp_path):
    path, config = write(tmp_path, sizes(labels=12))
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    with pytest.raises(InputError, match="2 different names, but the prior has 12 classes"):
        read_prior(path, config, label_names=tmp_path / "names.txt")
    unlabelled = tmp_path / "unlabelled"
    unlabelled.mkdir()
    with pytest.raises(InputError, match="the prior has none"):
        read_prior(*write(unlabelled, sizes()), label_names=tmp_path / "names.txt")


def test_the_command_line_maps_labels(tmp_path):
    path, config = write(tmp_path, sizes(labels=12, depth=(0, 1, 0)))
    arguments = ["export", "--checkpoint", path, "--config", config, "--label-order", "string", "--out"]
    assert run([str(argument) for argument in [*arguments, tmp_path / "bundle"]]) == 0
    codes = np.random.default_rng(0).integers(0, 13, (1, 8, 8))
    with sundae_rt.load(tmp_path / "bundle", variant="fp32") as runtime, torch.no_grad():
        _, _, confidence = runtime.denoise(codes, 1.0, np.zeros(codes.shape), np.ones(codes.shape, bool), label="10")
        assert runtime.manifest.provenance["prior"]["label_order"] == "string"
        flat = torch.from_numpy(codes).flatten(1)
        model_class_2 = read_prior(path, config).model(flat, torch.tensor([2]))
    wanted = model_class_2.softmax(-1).gather(-1, flat[..., None]).numpy()
    assert np.abs(confidence.reshape(wanted.shape) - wanted).max() <= LOGITS


def test_a_file_that_holds_more_than_tensors_is_refused_with_a_way_to_strip_it(tmp_path):
    path, config = write(tmp_path, sizes())
    torch.save({"net": torch.load(path, weights_only=True)["net"], "cfg": object}, path)
    with pytest.raises(
        InputError, match=r"more than tensors and plain values: builtins.object.*-m sundae_rt.training.strip"
    ):
        read_prior(path, config)


def test_a_missing_or_broken_config_is_named(tmp_path):
    path, config = write(tmp_path, sizes())
    config.write_text("[net\n")
    with pytest.raises(InputError, match=r"cannot read .*config\.toml as toml"):
        read_prior(path, config)
    config.unlink()
    with pytest.raises(InputError, match=r"there is no config .*config\.toml"):
        read_prior(path, config)
