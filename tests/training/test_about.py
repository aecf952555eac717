"""Data say what they are: from the file in their folder to the bundle's manifest, and never from a preset."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

import sundae_rt  # noqa: E402
from sundae_rt.cli import run  # noqa: E402
from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.training import about, checkpoint, encoding  # noqa: E402
from sundae_rt.training.data import ImageFolder  # noqa: E402

TINY = """
extends = "toy"
[vqgan]
channels = 4
norm_groups = 4
[vqgan.training]
steps = 1
batch_size = 2
perceptual = false
[prior]
depth = [1, 1, 1]
dims = [16]
heads = [1]
[prior.training]
steps = 1
batch_size = 2
"""
GARDEN = {"data": "Flowers of our garden, 花", "data_licence": 'CC BY-SA 4.0, "as is"'}
MEADOW = {"data": "A meadow", "licence": "MIT", "recipe": "meadow.md"}


def pictures(folder, said=None, side=32, count=3):
    """A folder of noise, and what it says of itself."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for index in range(count):
        Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    if said is not None:
        about.write(folder, said)
    return folder


def said_by(values):
    """The part of a provenance that tells of the data."""
    return {key: value for key, value in values.items() if key in about.KEYS}


@pytest.mark.parametrize("said", [GARDEN, MEADOW, dict.fromkeys(about.KEYS, "a\u00a0\u3000b \U0001f33c")])
def test_a_folder_is_what_its_file_says(said, tmp_path):
    about.write(tmp_path, said)
    assert about.read(tmp_path) == said


def test_a_folder_without_the_file_or_without_data_in_it_is_its_name_alone(tmp_path, monkeypatch):
    folder = pictures(tmp_path / "photos")
    assert about.read(folder) == {"data": "photos"}
    monkeypatch.chdir(folder)
    assert about.read(Path(".")) == {"data": "photos"}
    (folder / "about.toml").write_text('data_licence = "CC0"')
    assert about.read(folder) == {"data": "photos", "data_licence": "CC0"}


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX systems alone")
def test_a_name_that_is_no_text_becomes_one(tmp_path):
    assert about.read(tmp_path / os.fsdecode(b"caf\xe9")) == {"data": "caf\ufffd"}


BAD = [
    (b"data = ", "is no toml file: "),
    (b'data = "caf\xe9"', "is no toml file: "),
    (b'date = "2024"', ": unknown key 'date'; known are data, data_licence, licence, recipe"),
    (b"data = 3", ": data must be one line of text, not 3"),
    (b'[data]\nname = "x"', r": data must be one line of text, not \{'name': 'x'\}"),
    (b'licence = " "', ": licence must be one line of text, not ' '"),
    (b'data = """two\nlines"""', r": data must be one line of text, not 'two\\nlines'"),
    (b'data = "end\\u2028"', r": data must be one line of text, not 'end\\u2028'"),
    (b'data = "red \\u001b[31m"', r": data must be one line of text, not 'red \\x1b\[31m'"),
]


@pytest.mark.parametrize(("text", "told"), BAD)
def test_a_bad_file_is_refused_in_one_line_that_names_it(text, told, tmp_path):
    (tmp_path / "about.toml").write_bytes(text)
    with pytest.raises(InputError, match=told) as refused:
        about.read(tmp_path)
    assert str(refused.value).startswith(str(tmp_path / "about.toml")) and "\n" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_refused_and_not_passed_over(tmp_path):
    (tmp_path / "about.toml").mkdir()
    with pytest.raises(InputError, match=r"cannot read .*about\.toml: Is a directory"):
        about.read(tmp_path)


@pytest.mark.parametrize("said", [{"date": "2024"}, {"data": "two\nlines"}, {"data": "\udce9"}])
def test_what_could_not_be_read_is_not_written(said, tmp_path):
    with pytest.raises(InputError, match=r"^about\.toml: "):
        about.write(tmp_path, said)
    assert not list(tmp_path.iterdir())


def test_the_file_does_not_change_what_the_images_are(tmp_path):
    pictures(tmp_path / "sea")
    pictures(tmp_path / "land")
    before = ImageFolder(tmp_path, 32)
    for folder in (tmp_path, tmp_path / "sea"):
        about.write(folder, GARDEN)
    after = ImageFolder(tmp_path, 32)
    assert (after.files, after.labels, after.label_ids) == (before.files, ["land", "sea"], before.label_ids)
    assert after.fingerprint() == before.fingerprint()
    assert (before.about, after.about) == ({"data": tmp_path.name}, GARDEN)


@pytest.mark.parametrize(
    "command",
    [
        ("train", "vqgan", "--preset", "tiny.toml", "--data", "photos", "--out", "out"),
        ("encode", "photos", "--preset", "grey.toml", "--out", "out/codes.safetensors"),
    ],
)
def test_commands_refuse_a_bad_file_before_they_do_anything(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(TINY)
    (tmp_path / "grey.toml").write_text("[pixels]\nimage_size = 4")
    (pictures(tmp_path / "photos") / "about.toml").write_text("licence = false")
    assert run([*command]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == ["sundae-rt: photos/about.toml: licence must be one line of text, not False"]
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A VQ-GAN of the garden, codes and a prior of the meadow, their bundle; and a prior of photos that say nothing."""
    pytest.importorskip("onnxscript")
    home = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        (home / "tiny.toml").write_text(TINY)
        for name, said in (("garden", GARDEN), ("meadow", MEADOW), ("photos", None)):
            pictures(home / name, said)
        for command in (
            "train vqgan --preset tiny.toml --data garden --out vqgan",
            "encode meadow --vqgan vqgan/vqgan.pt --out meadow.safetensors",
            "train prior --preset tiny.toml --codes meadow.safetensors --out prior",
            "export --checkpoint prior/prior.pt --out bundle",
            "train vqgan --preset tiny.toml --data photos --out plain/vqgan",
            "encode photos --vqgan plain/vqgan/vqgan.pt --out plain/codes.safetensors",
            "train prior --preset tiny.toml --codes plain/codes.safetensors --out plain/prior",
        ):
            assert run(command.split()) == 0
    return home


def test_checkpoints_codes_and_manifest_carry_what_the_folders_say(chain):
    assert said_by(checkpoint.load(chain / "vqgan" / "vqgan.pt", "vqgan")["provenance"]) == GARDEN
    assert encoding.read(chain / "meadow.safetensors").about == MEADOW
    assert said_by(checkpoint.load(chain / "prior" / "prior.pt", "prior")["provenance"]) == MEADOW
    with sundae_rt.load(chain / "bundle") as runtime:
        provenance = runtime.manifest.provenance
    assert said_by(provenance["vqgan"]) == GARDEN
    assert said_by(provenance["prior"]) == MEADOW


def test_of_a_folder_that_says_nothing_its_name_alone_is_claimed(chain):
    for kind in ("vqgan", "prior"):
        provenance = checkpoint.load(chain / "plain" / kind / f"{kind}.pt", kind)["provenance"]
        assert said_by(provenance) == {"data": "photos"}
        assert "licence" not in json.dumps(provenance)


def test_codes_of_a_bundle_and_codes_that_are_pixels_carry_it_too(chain, tmp_path):
    encoding.encode_folder(chain / "meadow", tmp_path / "a.safetensors", bundle=chain / "bundle", say=lambda line: None)
    assert encoding.read(tmp_path / "a.safetensors").about == MEADOW
    (tmp_path / "grey.toml").write_text("[pixels]\nimage_size = 4")
    grey = str(tmp_path / "grey.toml")
    encoding.encode_folder(chain / "garden", tmp_path / "b.safetensors", preset=grey, say=lambda line: None)
    assert encoding.read(tmp_path / "b.safetensors").about == GARDEN


def described_as(path, change):
    """Rewrites what a file of codes says beside its tensors."""
    with safe_open(path, "pt") as file:
        described = json.loads(file.metadata()["sundae-rt"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    change(described)
    save_file(tensors, path, {"sundae-rt": json.dumps(described)})


def test_codes_of_before_train_a_prior_that_claims_nothing(chain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encoding.write(tmp_path / "codes.safetensors", encoding.read(chain / "meadow.safetensors"))
    described_as(tmp_path / "codes.safetensors", lambda described: described.pop("about"))
    tiny = str(chain / "tiny.toml")
    assert run(["train", "prior", "--preset", tiny, "--codes", "codes.safetensors", "--out", "prior"]) == 0
    provenance = checkpoint.load(tmp_path / "prior" / "prior.pt", "prior")["provenance"]
    assert said_by(provenance) == {} and provenance["images"] == 3


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Flowers", "about must be a table, not 'Flowers'"),
        ({"date": "2024"}, "about: unknown key 'date'"),
        ({"data": ["Flowers"]}, r"about: data must be one line of text, not \['Flowers'\]"),
    ],
)
def test_codes_that_say_what_no_folder_can_are_refused_by_name(said, told, chain, tmp_path):
    path = tmp_path / "codes.safetensors"
    encoding.write(path, encoding.read(chain / "meadow.safetensors"))
    described_as(path, lambda described: described.update(about=said))
    with pytest.raises(InputError, match=rf"codes\.safetensors: {told}"):
        encoding.read(path)
