"""Samplers of Unleashing Transformers give their logits and chains, in PyTorch and from a bundle; misfits are named."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import reference  # noqa: E402
import sundae_rt  # noqa: E402
from sundae_rt.cli import run  # noqa: E402
from sundae_rt.errors import BundleError, InputError  # noqa: E402
from sundae_rt.export import export_checkpoint  # noqa: E402
from sundae_rt.export.published.priors import read_prior  # noqa: E402
from sundae_rt.training.prior.absorbing import AbsorbingConfig  # noqa: E402

LOGITS = 2e-5


def quiet(line):
    pass


# The reference: absorbing-tiny


@pytest.fixture(scope="module")
def found():
    return read_prior(reference.path("absorbing-tiny.th"), reference.path("absorbing-tiny.json"))


@pytest.fixture(scope="module")
def recorded():
    return reference.recorded("absorbing-tiny")


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    path, config = reference.path("absorbing-tiny.th"), reference.path("absorbing-tiny.json")
    out = tmp_path_factory.mktemp("bundles") / "absorbing-tiny"
    with sundae_rt.load(
        export_checkpoint(path, config=config, out=out, logits=True, say=quiet), variant="fp32"
    ) as opened:
        yield opened


def test_pytorch_has_the_published_logits(found, recorded):
    with torch.no_grad():
        logits = found.model(torch.from_numpy(recorded["tokens"])).numpy()
    assert np.abs(logits - recorded["logits"]).max() <= LOGITS


def test_the_bundle_has_the_published_logits(runtime, recorded):
    logits = runtime.logits(recorded["tokens"].reshape(-1, 8, 8))
    assert np.abs(logits.reshape(recorded["logits"].shape) - recorded["logits"]).max() <= LOGITS


def temperatures(recorded, chain):
    steps = len(recorded["unmask"])
    return [0.0] * steps if chain == "greedy" else np.broadcast_to(recorded["temperature"], steps).tolist()


@pytest.mark.parametrize("chain", ["greedy", "sampled"])
def test_pytorch_takes_the_published_steps(found, recorded, chain):
    codes = torch.from_numpy(recorded[f"{chain}_states"][0])
    for step, temperature in enumerate(temperatures(recorded, chain)):
        with torch.no_grad():
            logits = found.model(codes).double()
        if temperature:
            cumulated = torch.softmax(logits / temperature, -1).cumsum(-1)
            proposal = (cumulated <= torch.from_numpy(recorded["uniform"][step])[..., None]).sum(-1)
        else:
            proposal = logits.argmax(-1)
        codes = torch.where(torch.from_numpy(recorded["unmask"][step]), proposal, codes)
        assert np.array_equal(codes.numpy(), recorded[f"{chain}_states"][step + 1]), f"step {step}"


@pytest.mark.parametrize("chain", ["greedy", "sampled"])
def test_the_bundle_takes_the_published_steps(runtime, recorded, chain):
    grid = (-1, 8, 8)
    codes = recorded[f"{chain}_states"][0].reshape(grid)
    assert (codes == 64).all()
    for step, temperature in enumerate(temperatures(recorded, chain)):
        codes, _, _ = runtime.denoise(
            codes, temperature, recorded["uniform"][step].reshape(grid), recorded["unmask"][step].reshape(grid)
        )
        assert np.array_equal(codes, recorded[f"{chain}_states"][step + 1].reshape(grid)), f"step {step}"


def test_the_manifest_names_the_family_and_the_published_steps(runtime):
    assert (runtime.manifest.family, runtime.manifest.vocabulary) == ("absorbing", 64)
    assert (runtime.manifest.default_schedule.steps, runtime.manifest.default_schedule.temperature) == (64, (1, 1))


def test_a_sampler_alone_says_which_half_is_missing(runtime):
    with pytest.raises(BundleError, match=r"no decoder graph.*--vqgan"):
        runtime.generate()


def test_with_its_vqgan_it_generates(tmp_path, capsys):
    names = {"checkpoint": "absorbing-tiny.th", "config": "absorbing-tiny.json"}
    names |= {"vqgan": "ut-vqgan-tiny.th", "vqgan-config": "ut-vqgan-tiny.json"}
    arguments = [part for option, name in names.items() for part in (f"--{option}", str(reference.path(name)))]
    assert run(["export", *arguments, "--out", str(tmp_path / "bundle")]) == 0
    with sundae_rt.load(tmp_path / "bundle", variant="fp32") as opened:
        sample = opened.generate(n=2, steps=5, seed=1)[1]
    assert sample.image.size == (32, 32)
    assert sample.codes.max() < 64


# Other sizes: the published transformer in a few lines, so that nothing here rests on our own model


def published_weights(codes, width, layers, block, mask=1, times=8, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=generator)

    net = {"tok_emb.weight": random(codes + mask, width), "pos_emb": random(1, block, width)}
    net["start_tok"] = torch.zeros(1, 1, width)
    for index in range(layers):
        for name, rows, columns in (
            *((f"attn.{part}", width, width) for part in ("key", "query", "value", "proj")),
            ("mlp.0", 4 * width, width),
            ("mlp.2", width, 4 * width),
        ):
            net[f"blocks.{index}.{name}.weight"] = random(rows, columns) / columns**0.5
            net[f"blocks.{index}.{name}.bias"] = random(rows) / 4
        for name in ("ln1", "ln2"):
            net |= {
                f"blocks.{index}.{name}.weight": 1 + random(width) / 4,
                f"blocks.{index}.{name}.bias": random(width),
            }
    net |= {"ln_f.weight": 1 + random(width) / 4, "ln_f.bias": random(width), "head.weight": random(codes, width)}
    history = {name: torch.zeros(times + 1) for name in ("Lt_history", "Lt_count", "loss_history")}
    return {f"_denoise_fn.{name}": tensor for name, tensor in net.items()} | history


def published_logits(weights, tokens, heads):
    net = {name.removeprefix("_denoise_fn."): tensor.double() for name, tensor in weights.items()}
    norm, linear = torch.nn.functional.layer_norm, torch.nn.functional.linear
    x = net["tok_emb.weight"][tokens] + net["pos_emb"][0, : tokens.shape[1]]
    width = x.shape[-1]
    for index in range(len([name for name in net if name.endswith(".ln1.weight")])):
        block = {name.removeprefix(f"blocks.{index}."): tensor for name, tensor in net.items()}

        def through(name, x, block=block):
            return linear(x, block[f"{name}.weight"], block[f"{name}.bias"])

        y = norm(x, (width,), block["ln1.weight"], block["ln1.bias"])
        query, key, value = (
            through(f"attn.{part}", y).unflatten(-1, (heads, -1)).transpose(1, 2) for part in ("query", "key", "value")
        )
        scores = torch.softmax(query @ key.transpose(-1, -2) / (width // heads) ** 0.5, -1)
        x = x + through("attn.proj", (scores @ value).transpose(1, 2).flatten(2))
        y = norm(x, (width,), block["ln2.weight"], block["ln2.bias"])
        x = x + through("mlp.2", torch.nn.functional.gelu(through("mlp.0", y)))
    return linear(norm(x, (width,), net["ln_f.weight"], net["ln_f.bias"]), net["head.weight"])


def settings(codes, width, layers, block, heads, grid, times=8):
    return {
        "sampler": "absorbing",
        "bert_n_emb": width,
        "bert_n_head": heads,
        "bert_n_layers": layers,
        "block_size": block,
        "codebook_size": codes,
        "latent_shape": [1, *grid],
        "total_steps": times,
        "mask_id": codes,
    }


def write(folder, weights, said):
    torch.save(weights, folder / "absorbing.th")
    (folder / "absorbing.json").write_text(json.dumps(said))
    return folder / "absorbing.th", folder / "absorbing.json"


# codes, width, layers, block, heads, grid
OTHERS = {
    "one head": (11, 8, 1, 16, 1, (4, 4)),
    "narrow heads, a long grid": (40, 24, 2, 18, 6, (3, 6)),
    "more positions than codes": (17, 20, 4, 100, 5, (5, 7)),
    "three heads": (9, 33, 2, 10, 3, (2, 5)),
}


def written(sizes, folder):
    """A random sampler of these sizes: its weights, its files, and tokens that are masked a little, more and wholly."""
    codes, width, layers, block, heads, grid = sizes
    weights = published_weights(codes, width, layers, block)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(codes, (3, grid[0] * grid[1]), generator=generator)
    tokens[torch.rand(tokens.shape, generator=generator) < torch.tensor([[0.2], [0.6], [1.0]])] = codes
    return weights, *write(folder, weights, settings(codes, width, layers, block, heads, grid)), tokens


def near(found, wanted):
    """To 2e-5, or as many digits where logits are far above the references'."""
    return float((found - wanted).abs().max()) <= LOGITS * max(1.0, float(wanted.abs().max()) / 10)


@pytest.mark.parametrize("sizes", OTHERS.values(), ids=OTHERS)
def test_other_sizes_give_the_published_logits(sizes, tmp_path):
    codes, width, layers, _, heads, grid = sizes
    weights, path, config, tokens = written(sizes, tmp_path)
    found = read_prior(path, config)
    assert found.model.config == AbsorbingConfig(codes, grid, width, heads, layers)
    with torch.no_grad():
        assert near(found.model(tokens), published_logits(weights, tokens, heads))


def test_other_sizes_run_from_a_bundle_and_a_mask_has_no_confidence(tmp_path):
    sizes = OTHERS["more positions than codes"]
    codes, heads, grid = sizes[0], sizes[4], sizes[5]
    weights, path, config, tokens = written(sizes, tmp_path)
    bundle = export_checkpoint(path, config=config, out=tmp_path / "bundle", logits=True, say=quiet)
    wanted = published_logits(weights, tokens, heads)
    grids = tokens.reshape(3, *grid).numpy()
    uniform = np.random.default_rng(0).random(grids.shape, np.float32)
    with sundae_rt.load(bundle, variant="fp32") as opened:
        logits = opened.logits(grids)
        new, proposal, confidence = opened.denoise(grids, 1.0, uniform, grids == codes)
    assert near(torch.from_numpy(logits).reshape(wanted.shape), wanted)
    assert proposal.max() < codes
    assert np.array_equal(new, np.where(grids == codes, proposal, grids))
    known = wanted.softmax(-1).gather(-1, tokens.clamp(max=codes - 1)[..., None]).squeeze(-1) * (tokens < codes)
    assert np.abs(confidence.reshape(known.shape) - known.numpy()).max() <= 1e-4
    assert (confidence[grids == codes] == 0).all()


SIZES = {"codes": 11, "width": 8, "layers": 2, "block": 16}
SAID = {**SIZES, "heads": 2, "grid": (4, 4)}


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: name.replace("_denoise_fn.", "_denoise_fn.module."),
        lambda name: f"ema.{name}",
    ],
)
def test_a_wrappers_prefix_does_not_matter(rename, tmp_path):
    weights, said = published_weights(**SIZES), settings(**SAID)
    plain = read_prior(*write(tmp_path, weights, said)).model.state_dict()
    other = read_prior(*write(tmp_path, {rename(name): tensor for name, tensor in weights.items()}, said))
    assert all(torch.equal(tensor, plain[name]) for name, tensor in other.model.state_dict().items())


@pytest.mark.parametrize("holder", ["model.", ""])
def test_averages_beside_the_sampler_are_ignored_and_named(holder, tmp_path):
    weights, said = published_weights(**SIZES), settings(**SAID)
    plain = read_prior(*write(tmp_path, weights, said)).model.state_dict()
    both = {f"ema.{name}": torch.zeros_like(tensor) for name, tensor in weights.items()}
    both |= {f"{holder}{name}": tensor for name, tensor in weights.items()}
    found = read_prior(*write(tmp_path, both, said))
    assert all(torch.equal(tensor, plain[name]) for name, tensor in found.model.state_dict().items())
    (note,) = found.notes
    assert note.endswith(": the averaged weights under ema._denoise_fn are ignored")


def test_the_bare_transformer_and_a_nested_sampler_load_too(tmp_path):
    weights, said = published_weights(**SIZES), settings(**SAID)
    plain = read_prior(*write(tmp_path, weights, said)).model.state_dict()
    bare = {name.removeprefix("_denoise_fn."): tensor for name, tensor in weights.items() if "_fn" in name}
    nested = {"state_dict": weights, "epoch": 3, "optimizer": {"state": {0: {"step": torch.zeros(1)}}}}
    for other in (bare, nested):
        found = read_prior(*write(tmp_path, other, said)).model.state_dict()
        assert all(torch.equal(tensor, plain[name]) for name, tensor in found.items())


def test_half_precision_weights_become_single(tmp_path):
    weights = {name: tensor.half() for name, tensor in published_weights(**SIZES).items()}
    found = read_prior(*write(tmp_path, weights, settings(**SAID)))
    assert found.model.to_logits.weight.dtype == torch.float32


def test_what_the_config_leaves_out_comes_from_the_weights(tmp_path):
    said = {"bert_n_head": 2, "latent_shape": [4, 4]}
    found = read_prior(*write(tmp_path, published_weights(**SIZES), said))
    assert found.model.config == AbsorbingConfig(11, (4, 4), 8, 2, 2)
    assert found.schedule.steps == 8


def test_the_config_may_name_another_number_of_steps_to_sample_in(tmp_path):
    said = settings(**SAID) | {"sample_steps": 3, "temp": 0.8}
    schedule = read_prior(*write(tmp_path, published_weights(**SIZES), said)).schedule
    assert (schedule.steps, schedule.temperature) == (3, (0.8, 0.8))


def saying(**changes):
    return lambda weights, said: said.update(changes)


def leaving_out(key):
    return lambda weights, said: said.pop(key)


def weight(name, tensor=None):
    return lambda weights, said: weights.pop(name) if tensor is None else weights.update({name: tensor})


KEY = "_denoise_fn.blocks.1.attn.key.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (saying(codebook_size=12), r"codebook_size = 12, but .*absorbing.th has 11 \(rows of head.weight\)"),
        (saying(mask_id=10), r"mask_id = 10, but .* has 11"),
        (saying(bert_n_emb=16), r"bert_n_emb = 16, but .* has 8"),
        (saying(bert_n_layers=3), r"bert_n_layers = 3, but .* has 2"),
        (saying(block_size=64), r"block_size = 64, but .* has 16"),
        (saying(total_steps=256), r"total_steps = 256, but .* has 8 \(Lt_history"),
        (saying(bert_n_head=3), "absorbing.json: dim 8 does not divide into 3 heads"),
        (saying(bert_n_head=0), "bert_n_head must be a whole number from 1"),
        (saying(latent_shape=[1, 4, 5]), r"latent_shape = \[4, 5\], 20 codes, but .* has 16"),
        (saying(latent_shape=[2, 4, 4]), r"latent_shape must be \[1, h, w\]"),
        (saying(sampler="autoregressive"), "sampler = 'autoregressive' is not supported"),
        (saying(temp="warm"), "absorbing.json: temperature"),
        (leaving_out("bert_n_head"), "lacks 'bert_n_head'"),
        (leaving_out("latent_shape"), "lacks 'latent_shape'"),
        (weight("_denoise_fn.ln_f.bias"), r"missing weights ln_f\.bias"),
        (weight("_denoise_fn.head.weight"), r"missing weights head\.weight"),
        (weight(KEY), r"missing weights blocks\.1\.attn\.key\.weight; unexpected weights none"),
        (weight(KEY, torch.zeros(4, 8)), r"blocks\.1\.attn\.key\.weight is \[4, 8\], the config asks for \[8, 8\]"),
        (weight("_denoise_fn.extra", torch.zeros(2)), "unexpected weights extra"),
        (weight("extra", torch.zeros(2)), "unexpected weights extra beside _denoise_fn.tok_emb.weight"),
        (
            weight(KEY, torch.full((8, 8), torch.nan)),
            r"^\S*absorbing\.th: blocks\.1\.attn\.key\.weight holds values that are no finite numbers$",
        ),
        (
            lambda weights, said: weights.update({f"extra.{index}": torch.zeros(2) for index in range(9)}),
            r"unexpected weights extra\.0, .*, extra\.5 and 3 more beside _denoise_fn\.tok_emb\.weight$",
        ),
        (weight("_denoise_fn.pos_emb", torch.zeros(16, 8)), r"pos_emb is \[16, 8\], which is not 3 axes"),
        (weight("best.tok_emb.weight", torch.zeros(12, 8)), "holds 2 such models"),
        (
            weight("_denoise_fn.tok_emb.weight", torch.zeros(11, 8)),
            "tok_emb.weight has 11 rows, but head.weight gives 11 codes",
        ),
    ],
)
def test_what_contradicts_is_refused_naming_both_sides(change, words, tmp_path):
    weights, said = published_weights(**SIZES), settings(**SAID)
    change(weights, said)
    with pytest.raises(InputError, match=words):
        read_prior(*write(tmp_path, weights, said))


def test_labels_of_a_prior_that_has_none_are_refused(tmp_path):
    path, config = write(tmp_path, published_weights(**SIZES), settings(**SAID))
    (tmp_path / "names.txt").write_text("cat\n")
    for options in ({"label_order": "string"}, {"label_names": tmp_path / "names.txt"}):
        with pytest.raises(InputError, match="a prior without labels"):
            read_prior(path, config, **options)


def test_a_config_that_is_no_json_is_named(tmp_path):
    path, config = write(tmp_path, published_weights(**SIZES), settings(**SAID))
    config.write_text("[net]\n")
    with pytest.raises(InputError, match=r"cannot read .*absorbing\.json as json"):
        read_prior(path, config)
