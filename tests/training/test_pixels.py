"""The MNIST family: pixels are codes, from the data set's own files to pictures, and nothing is lost on the way."""

import gzip
import struct

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import sundae_rt  # noqa: E402
from sundae_rt.cli import run  # noqa: E402
from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.training import checkpoint, config, encoding  # noqa: E402
from sundae_rt.training.idx import open_images  # noqa: E402
from sundae_rt.training.pixels import CODES, GreyPixels, GreyPixelsConfig  # noqa: E402
from sundae_rt.training.vqgan.model import to_model, to_pixels  # noqa: E402

SIDE = 8


def digits(count=12):
    """Grey pictures, and their labels."""
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (count, SIDE, SIDE), dtype=np.uint8), np.arange(count, dtype=np.uint8) % 10


def write_idx(folder, packed=False):
    pictures, labels = digits()
    for name, array in (("train-images-idx3-ubyte", pictures), ("train-labels-idx1-ubyte", labels)):
        data = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(data) if packed else data)
    return folder


@pytest.fixture
def small(monkeypatch):
    """The preset `mnist`, small enough to train here."""

    preset = config.load_preset("mnist")
    preset.sections["pixels"]["image_size"] = SIDE
    preset.sections["prior"] |= {"latent_grid": [SIDE, SIDE], "depth": [1, 1, 1], "dims": [16], "heads": [1]}
    preset.sections["prior"]["training"] |= {"steps": 2, "save_every": 2}
    preset.sections["prior"]["schedule"] |= {"steps": 3, "min_steps": 3}
    monkeypatch.setattr(config, "load_preset", {"mnist": preset}.__getitem__)


def test_every_grey_level_comes_back():
    pixels = GreyPixels(GreyPixelsConfig(16))
    codes = torch.arange(256).view(1, 16, 16)
    pictures = to_pixels(pixels.decode(codes))
    assert torch.equal(pictures, codes[..., None].expand(-1, -1, -1, 3).to(torch.uint8))
    assert torch.equal(pixels.encode(to_model(pictures)), codes)


def test_a_coloured_picture_becomes_as_grey_as_pillow_makes_it():
    colours = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    codes = GreyPixels(GreyPixelsConfig(16)).encode(to_model(torch.from_numpy(colours)))[0].numpy()
    assert np.abs(codes - np.asarray(Image.fromarray(colours[0]).convert("L")).astype(int)).max() <= 1


@pytest.mark.parametrize("packed", [False, True])
def test_the_data_sets_own_files_are_read(packed, tmp_path):
    pictures, labels = digits()
    images = open_images(write_idx(tmp_path, packed), SIDE)
    assert len(images) == 12
    assert np.array_equal(images[3].numpy(), pictures[3][..., None].repeat(3, -1))
    assert (images.labels, images.label_ids) == ([str(digit) for digit in range(10)], labels.tolist())


def test_files_that_do_not_go_together_are_refused(tmp_path):
    write_idx(tmp_path)
    with pytest.raises(InputError, match="pictures of 8x8, not 28x28"):
        open_images(tmp_path, 28)
    labels = tmp_path / "train-labels-idx1-ubyte"
    whole = labels.read_bytes()
    labels.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="is no idx file of bytes in 1 dimensions"):
        open_images(tmp_path, SIDE)
    labels.write_bytes(struct.pack(">HBBI", 0, 8, 1, 2) + b"\1\2")
    with pytest.raises(InputError, match="12 pictures and 2 labels"):
        open_images(tmp_path, SIDE)
    labels.unlink()
    with pytest.raises(InputError, match=r"there is no .*train-labels-idx1-ubyte"):
        open_images(tmp_path, SIDE)


def test_it_trains_exports_generates_and_inpaints_from_one_command_each(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures, _ = digits()
    write_idx(tmp_path)
    assert run(["encode", ".", "--preset", "mnist", "--out", "codes.safetensors"]) == 0
    dataset = encoding.read(tmp_path / "codes.safetensors")
    assert np.array_equal(dataset.codes.numpy(), pictures)
    assert (dataset.vocabulary, dataset.vqgan_file, dataset.codes_sha256) == (256, None, CODES)

    assert run(["train", "prior", "--preset", "mnist", "--codes", "codes.safetensors", "--out", "prior"]) == 0
    assert (tmp_path / "prior" / "prior-samples.png").exists()
    assert checkpoint.load(tmp_path / "prior" / "prior.pt", "prior")["vqgan"] == {"file": None, "codes_sha256": CODES}

    assert run(["export", "--checkpoint", "prior/prior.pt", "--out", "bundle"]) == 0
    with sundae_rt.load("bundle", variant="fp32") as runtime:
        grids = pictures[:3].astype(np.int32)
        made = runtime.decode(grids)
        assert np.array_equal(made, pictures[:3, ..., None].repeat(3, -1))
        assert np.array_equal(runtime.encode(made), grids)
        sample = runtime.generate(label="7")[0]
        assert np.array_equal(np.asarray(sample.image)[..., 0], sample.codes)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[:4] = 255
        painted = np.asarray(runtime.inpaint(Image.fromarray(made[0]), Image.fromarray(mask), label="7")[0].image)
    assert np.array_equal(painted[4:], made[0][4:])


def test_what_to_encode_with_must_be_one_thing_that_has_codes(tmp_path):
    with pytest.raises(InputError, match="name one to encode with"):
        encoding.encode_folder(tmp_path, tmp_path / "codes.safetensors")
    with pytest.raises(InputError, match=r"'ffhq256-2102' has no \[pixels\] section"):
        encoding.encode_folder(tmp_path, tmp_path / "codes.safetensors", preset="ffhq256-2102")
