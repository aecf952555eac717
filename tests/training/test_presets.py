"""Every system of the paper has a preset, at its real size; none of them is built in memory to know that."""

import json

import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from sundae_rt.cli import run  # noqa: E402
from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.training import config, describe, encoding  # noqa: E402
from sundae_rt.training.prior.preset import read_config  # noqa: E402

# dim, heads, depth, codes, side of the grid, labels, unroll steps, batch, steps, temperature, proportion, parameters
PAPER = {
    "ffhq256-2102": (1024, 8, (2, 10, 2), 1024, 16, 0, 2, 64, 100, (0.8, 0.8), 0.5, 178_429_952),
    "ffhq256-3103": (1024, 8, (3, 10, 3), 1024, 16, 0, 2, 32, 100, (0.8, 0.8), 0.5, 199_421_952),
    "celeba256-2122": (1024, 8, (2, 12, 2), 1024, 16, 0, 3, 48, 200, (0.8, 0.8), 0.5, 199_421_952),
    "ffhq1024-2102": (2048, 8, (2, 10, 2), 8192, 32, 0, 2, 16, 100, (1.0, 0.7), 0.5, 671_438_848),
    "ffhq1024-2122": (1024, 8, (2, 12, 2), 8192, 32, 0, 3, 10, 50, (1.0, 0.7), 0.5, 214_109_184),
    "ffhq1024-2122-large": (2048, 8, (2, 12, 2), 8192, 32, 0, 2, 8, 100, (0.7, 0.7), 0.5, 746_977_280),
    "ffhq1024-2142-large": (2048, 8, (2, 14, 2), 8192, 32, 0, 2, 8, 100, (0.7, 0.7), 0.5, 822_515_712),
    "ffhq1024-3103": (1024, 8, (3, 10, 3), 8192, 32, 0, 2, 16, 100, (0.7, 0.7), 0.5, 214_109_184),
    "ffhq1024-3123": (1024, 8, (3, 12, 3), 8192, 32, 0, 2, 16, 100, (0.7, 0.7), 0.5, 235_101_184),
    "imagenet256-2122": (1024, 8, (2, 12, 2), 1024, 16, 1000, 3, 192, 200, (0.8, 0.7), 0.7, 200_445_952),
    "imagenet256-2162": (1024, 12, (2, 16, 2), 1024, 16, 1000, 3, 128, 200, (0.8, 0.7), 0.7, 265_498_624),
    "imagenet256-2162-large": (2048, 12, (2, 16, 2), 1024, 16, 1000, 3, 64, 200, (0.8, 0.7), 0.7, 916_872_192),
    "imagenet256-3143": (2048, 12, (3, 14, 3), 1024, 16, 1000, 3, 64, 200, (0.8, 0.7), 0.7, 916_872_192),
    "mnist": (1024, 8, (2, 8, 2), 256, 28, 10, 2, 8, 50, (0.9, 0.9), 1.0, 155_874_560),
    "fashion-mnist": (1024, 8, (2, 8, 2), 256, 28, 10, 2, 8, 50, (0.9, 0.9), 1.0, 155_874_560),
    "kmnist": (1024, 8, (2, 10, 2), 256, 28, 10, 3, 10, 100, (0.8, 0.8), 1.0, 176_866_560),
}


@pytest.mark.parametrize("preset", PAPER)
def test_a_prior_has_the_papers_sizes_and_settings(preset):
    dim, heads, depth, codes, side, labels, unroll, batch, steps, temperature, proportion, parameters = PAPER[preset]
    described = describe("prior", preset)
    sizes, training, schedule = described["config"], described["training"], described["schedule"]
    assert described["parameters"] == parameters
    assert (sizes["dims"], sizes["heads"], sizes["depth"]) == ((dim,), (heads,), depth)
    assert (sizes["vocabulary"], sizes["latent_grid"], sizes["labels"]) == (codes, (side, side), labels)
    assert (sizes["shorten"], sizes["positions"]) == (4, "axial")
    assert (training["unroll_steps"], training["batch_size"]) == (unroll, batch)
    assert (schedule["steps"], schedule["temperature"]) == (steps, temperature)
    assert schedule["proportion"] == (proportion, proportion)


@pytest.mark.parametrize("preset", [preset for preset in PAPER if "mnist" not in preset])
def test_a_vqgan_makes_the_codes_that_its_prior_learns(preset):
    sizes = describe("vqgan", preset)["config"]
    prior = describe("prior", preset)["config"]
    side = sizes["image_size"] // 2 ** (len(sizes["multipliers"]) - 1)
    assert (sizes["codebook_size"], (side, side)) == (prior["vocabulary"], prior["latent_grid"])


def test_the_vqgans_have_the_published_sizes():
    small, large = describe("vqgan", "vqgan256"), describe("vqgan", "vqgan1024")
    for described in (small, large):
        sizes = described["config"]
        assert (sizes["channels"], sizes["latent_channels"], sizes["code_dim"]) == (128, 256, 256)
        assert (sizes["norm_groups"], sizes["unit_norm"]) == (32, False)
    assert small["config"]["multipliers"] == (1, 1, 2, 2, 4)
    assert (small["config"]["residual_blocks"], small["config"]["attention_resolutions"]) == (2, (16,))
    assert large["config"]["multipliers"] == (1, 1, 2, 2, 4, 4)
    assert (large["config"]["residual_blocks"], large["config"]["attention_resolutions"]) == (1, (64,))
    assert (large["training"]["discriminator_start"], large["training"]["adversarial_weight"]) == (15_000, 0.5)


def test_describe_needs_neither_data_nor_a_folder(capsys):
    assert run(["train", "prior", "--preset", "imagenet256-2162-large", "--describe"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 916_872_192
    assert run(["train", "vqgan", "--preset", "ffhq1024-2102", "--describe"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["codebook_size"] == 8192


def test_a_preset_that_extends_another_keeps_what_it_does_not_say():
    values = config._merged({"a": {"x": 1, "y": {"z": 2}}, "b": {"v": 3}}, {"a": {"y": {"z": 4}}, "c": {}})
    assert values == {"a": {"x": 1, "y": {"z": 4}}, "b": {"v": 3}, "c": {}}


def test_a_section_that_a_preset_lacks_is_named():
    with pytest.raises(InputError, match=r"'mnist' has no \[vqgan\] section"):
        describe("vqgan", "mnist")
    with pytest.raises(InputError, match=r"'vqgan256' has no \[prior\] section"):
        describe("prior", "vqgan256")


# Presets of one's own


OWN = """
extends = "toy"
[vqgan.training]
perceptual = "vgg16.pth"
discriminator_start = false
[prior]
dims = [32, 64]
"""


def test_a_file_of_ones_own_is_a_preset_wherever_one_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(OWN)
    (tmp_path / "sizes").mkdir()
    (tmp_path / "sizes" / "mine").write_text(OWN)
    for path, name in (("mine.toml", "mine.toml"), ("sizes/mine", "mine"), (str(tmp_path / "mine.toml"), "mine.toml")):
        assert run(["train", "vqgan", "--preset", path, "--describe"]) == 0
        described = json.loads(capsys.readouterr().out)
        assert described["preset"] == name
        training = described["training"]
        assert (training["perceptual"], training["discriminator_start"]) == ("vgg16.pth", None)
        assert training["steps"] == describe("vqgan", "toy")["training"]["steps"]
    assert describe("prior", "mine.toml")["config"]["dims"] == (32, 64)


def test_a_preset_of_ones_own_encodes(tmp_path, capsys):
    (tmp_path / "grey.toml").write_text("[pixels]\nimage_size = 4")
    Image.new("L", (4, 4), 7).save(tmp_path / "a.png")
    codes = tmp_path / "codes.safetensors"
    assert run(["encode", str(tmp_path), "--preset", str(tmp_path / "grey.toml"), "--out", str(codes)]) == 0
    assert encoding.read(codes).codes.tolist() == [[[7] * 4] * 4]


def test_a_preset_of_ones_own_is_exported_under_its_files_name(tmp_path):
    pytest.importorskip("onnxscript")
    from sundae_rt.export.sources import from_preset

    (tmp_path / "mine.toml").write_text(OWN)
    sources = from_preset(str(tmp_path / "mine.toml"))
    assert sources.prior.model.config.dims == (32, 64)
    assert sources.provenance["prior"]["preset"] == sources.provenance["vqgan"]["preset"] == "mine.toml"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, r"cannot read the preset .*mine\.toml: No such file"),
        ("[vqgan", r"the preset .*mine\.toml is no toml file"),
        (b"\xff", r"the preset .*mine\.toml is no toml file"),
        ('extends = "erth"', r"mine\.toml' extends 'erth', which does not ship: .*earth"),
        ("extends = [1]", r"extends \[1\], which does not ship"),
        ("[vqgn]", r"'vqgn' is no section; known are vqgan, pixels, prior"),
        ("vqgan = 3", "'vqgan' is no section"),
        ("[about]\ndata = 'mine'", "'about' is no section"),  # what data are, their own folder says
        ("[pixels]\nimage_size = 4", r"preset 'mine\.toml' has no \[vqgan\] section"),
        ("[vqgan]\nimage_sise = 4", r"preset 'mine\.toml' \[vqgan\]: unknown key 'image_sise'"),
        ("[vqgan]\ntraining = 3", r"\[vqgan.training\] must be a table, not 3"),
        ('[vqgan]\nmultipliers = [1, "2"]', r"multipliers = \[1, '2'\] is not a tuple\[int, ...\]"),
        ("[vqgan]\npixel_range = [1]", r"pixel_range = \[1\] is not a tuple\[float, float\]"),
        ("[vqgan.training]\nperceptual = true", "perceptual = True is not a str"),
        ("[vqgan.training]\nsteps = false", "steps = False is not a int$"),
        ("[vqgan.training]\ngradient_clip = 0", r"\[vqgan.training\]: gradient_clip is 0: it must be above 0"),
        ('extends = "toy"\n[pixels]\nimage_size = 9', r"has both \[pixels\] and \[vqgan\]"),
        ("[vqgan.training]\nsave_every = 0", "save_every is 0: it must be at least 1"),
        ("[vqgan.training]\nworkers = -1", "workers is -1: it must be at least 0"),
    ],
)
def test_a_file_that_is_no_preset_is_refused_in_one_line(text, told, tmp_path):
    if text is not None:
        (tmp_path / "mine.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=told) as refused:
        describe("vqgan", str(tmp_path / "mine.toml"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("proportion", ["ancestral", [1.0, 0.5]])
def test_a_preset_may_name_the_proportion_of_its_schedule(proportion, tmp_path):
    text = f'extends = "toy"\n[prior.schedule]\nproportion = {json.dumps(proportion)}'
    (tmp_path / "mine.toml").write_text(text)
    kept = proportion if isinstance(proportion, str) else tuple(proportion)
    assert describe("prior", str(tmp_path / "mine.toml"))["schedule"]["proportion"] == kept


def test_a_proportion_of_another_name_is_refused(tmp_path):
    (tmp_path / "mine.toml").write_text('extends = "toy"\n[prior.schedule]\nproportion = "ancestors"')
    with pytest.raises(InputError, match=r"\[prior\.schedule\]: proportion = 'ancestors' is not a .*'ancestral'"):
        describe("prior", str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(("key", "value"), [("batch_size", 0), ("unroll_steps", 0), ("steps", 0)])
def test_a_training_of_nothing_is_refused(key, value, tmp_path):
    (tmp_path / "mine.toml").write_text(f'extends = "toy"\n[prior.training]\n{key} = {value}')
    with pytest.raises(InputError, match=f"{key} is {value}: it must be at least 1"):
        describe("prior", str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(
    ("kind", "setting", "told"),
    [
        ("prior", "[prior.schedule]\ntemperature = [-1.0, 1.0]", "temperature must be a finite number of at least 0"),
        ("prior", "[prior.schedule]\nguidance = nan", "guidance must be a finite number"),
        ("prior", "[prior.schedule]\nsteps = 10\nmin_steps = 500", r"min_steps must be at most steps \(10\), not 500"),
        ("prior", "[prior.training]\nlearning_rate = nan", "learning_rate is nan: it must be at least 0"),
        ("prior", "[prior.training]\nema_decay = 3.0", "ema_decay is 3.0: it must be a share, from 0 to 1"),
        ("prior", "[prior]\ndropout = 2.0", "dropout is 2.0: it must be a share"),
        ("prior", "[prior]\nlabels = -1", "labels is -1: it must be at least 0"),
        ("vqgan", "[vqgan]\ndropout = -0.5", "dropout is -0.5: it must be a share"),
        ("vqgan", "[vqgan.training]\nlearning_rate = -1.0", "learning_rate is -1.0: it must be at least 0"),
        ("vqgan", "[vqgan.training]\ncodebook_decay = 1.5", "codebook_decay is 1.5: it must be a share"),
    ],
)
def test_settings_that_mean_nothing_are_refused_before_any_training(kind, setting, told, tmp_path):
    (tmp_path / "mine.toml").write_text(f'extends = "toy"\n{setting}')
    with pytest.raises(InputError, match=told):
        describe(kind, str(tmp_path / "mine.toml"))


def test_a_student_that_drops_labels_asks_for_a_null_label_and_a_plain_training_does_not(tmp_path):
    text = 'extends = "toy"\n[prior]\nlabels = 2\nnull_label = false\n[prior.training]\nlabel_dropout = 0.0'
    (tmp_path / "mine.toml").write_text(text)
    wanted = read_config(config.load_preset(str(tmp_path / "mine.toml")))
    assert not wanted.sizes.null_label
    with pytest.raises(
        InputError, match=r"^\[prior.distillation\]: label_dropout needs null_label = true, or must be 0"
    ):
        wanted.student("distillation")
