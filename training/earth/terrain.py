"""What a crop of satellite imagery shows, judged from its pixels alone.

The rule is deliberately simple and honest: a handful of colour and contrast statistics, thresholds chosen once by
looking at sheets of crops. It names what the eye sees at first glance; it knows nothing of climate or land use.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TERRAINS = ("ocean", "coast", "ice", "mountain", "desert", "forest", "steppe")


def terrain_of(image: NDArray[np.uint8]) -> str:
    """Names the terrain of one crop.

    Args:
        image: uint8 ``[H, W, 3]``, RGB, at about 7.4 km a pixel.

    Returns:
        One of :data:`TERRAINS`, the first of these that holds: less than 6 % land is ``ocean``; over 30 % of the crop
        under snow is ``ice``; less than 85 % land is ``coast``; strong relief is ``mountain``; else the colour of the
        land decides between ``desert`` (bright), ``forest`` (dark and green) and ``steppe`` (what lies between).
    """
    red, green, blue = (image[..., channel].astype(np.float32) for channel in range(3))
    brightness = 0.299 * red + 0.587 * green + 0.114 * blue
    water = ((blue > red + 8) & (blue > green) & (brightness < 150)) | (brightness < 14)
    land_share = 1 - float(water.mean())
    if land_share < 0.06:
        return "ocean"
    land = ~water
    snow = land & (np.minimum(np.minimum(red, green), blue) > 150)
    if float(snow.mean()) > 0.30:
        return "ice"
    if land_share < 0.85:
        return "coast"
    if _relief(brightness, land) > 13.5:
        return "mountain"
    mean_brightness = float(brightness[land].mean())
    greenness = float((green - red)[land].mean())
    if mean_brightness > 125:
        return "desert"
    if greenness > -2 and mean_brightness < 66:
        return "forest"
    return "steppe"


def _relief(brightness: NDArray[np.float32], land: NDArray[np.bool_]) -> float:
    """Standard deviation, over land, of brightness minus its mean over 8 x 8 blocks: ridges, valleys and snow lines."""
    height, width = (side // 8 * 8 for side in brightness.shape)
    blocks = brightness[:height, :width].reshape(height // 8, 8, width // 8, 8)
    detail = (blocks - blocks.mean(axis=(1, 3), keepdims=True)).reshape(height, width)
    return float(detail[land[:height, :width]].std())
