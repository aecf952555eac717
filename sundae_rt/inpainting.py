"""Inpainting around the model: which pixels it sees, which latent cells it repaints, how its picture is pasted back.

**The mask.** A pixel at 128 or above is repainted, the others are kept. A PIL mask may be of any mode that
`images.as_rgb` reads; it is taken as greyscale, with transparency as black. An array is bool or uint8, [H,W]. A mask of
another size but the image's aspect ratio (to a pixel's rounding) is fitted so that every pixel it touches counts;
another aspect ratio is refused, and so is a mask that selects nothing.

**The window.** Work happens in one rectangle of the bundle's aspect ratio:

1. If the mask's bounding box, with a margin of an eighth of its own sides (as far as the image reaches), fits in the
   bundle's size, the window has that size: native resolution. It is centred on the box and pushed inside the image. An
   image of exactly the bundle's size is therefore used as it is.
2. Else it is the smallest window that holds box and margin. It is scaled down to the bundle's size by averaging areas,
   and the result is scaled back (Lanczos).
3. Where the image is smaller than the window, the window is padded at the right and at the bottom by mirroring. The
   padding counts as kept, and is cut off again.
4. Sides of the image below `MIN_SIDE` (unless it has the bundle's size) or above `MAX_SIDE` are refused.

**The model's input.** Masked pixels (and, when scaled, every pixel with a masked one in its area) are replaced by a
smooth fill from kept surroundings, so nothing that lay under the mask reaches the model. A latent cell is repainted if
any pixel of its part of the window is masked. Colour is taken as stored: an alpha channel does not reach the model.

**Pasting back.** Kept pixels come back identical, alpha included. Masked pixels take the generated picture in the
input's colours: what the decoder gets wrong of kept cells is taken off cells of like colour, and what nearby kept
pixels still differ off the seam (`sundae_rt.pasting`). Repainted pixels are opaque. The result is RGBA if the input had
alpha and RGB otherwise.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from sundae_rt.errors import InputError
from sundae_rt.images import as_rgb
from sundae_rt.pasting import blend, corrected, resized

MIN_SIDE = 8
"""The shortest side of an image, in pixels."""

MAX_SIDE = 8192
"""The longest side of an image, in pixels."""

_FEATHER = 8  # pixels of the model's picture over which the seam's shift fades out
_MAX_FEATHER = 16  # the same in the input's pixels, at most


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of the input image, possibly reaching beyond its right and bottom edge; all in pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, array: np.ndarray) -> np.ndarray:
        """The view of `array` [H,W,...] inside the window, smaller than the window where the array ends."""
        return array[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """One image and mask, fitted to a bundle.

    Attributes:
        model_input: uint8 [H,W,3] at the bundle's size, masked pixels filled in: what the encoder sees.
        repaint: bool [h,w], True where the latent cell is repainted.
        kept: bool [h,w], True where it is not and shows the image alone, without padding.
        notes: what was fitted, cut, scaled or padded, one sentence each.
        pixels: uint8 [H',W',3 or 4], the input at its own size.
        mask: bool [H',W'], True where the input is repainted.
        window: the part of the input that the model sees.
        profile: the input's ICC colour profile, which the result carries too.
    """

    model_input: np.ndarray
    repaint: np.ndarray
    kept: np.ndarray
    notes: tuple[str, ...]
    pixels: np.ndarray
    mask: np.ndarray
    window: Window
    profile: bytes | None

    def paste(self, generated: np.ndarray) -> Image.Image:
        """Put a generated picture, uint8 [H,W,3] at the bundle's size, into the input; RGB(A) at the input's size.

        Raises:
            InputError: `generated` is of another shape or dtype.
        """
        if generated.shape != self.model_input.shape or generated.dtype != np.uint8:
            raise InputError(
                f"the generated picture must be uint8 {list(self.model_input.shape)}, "
                f"not {generated.dtype} {list(generated.shape)}"
            )
        size = (self.window.width, self.window.height)
        scaled = np.asarray(
            Image.fromarray(corrected(generated, self.model_input, self.kept)).resize(size, Image.Resampling.LANCZOS)
        )
        result = self.pixels.copy()
        inside, mask = self.window.cut(result), self.window.cut(self.mask)
        scale = self.window.height / generated.shape[0]
        feather = min(round(_FEATHER * scale), _MAX_FEATHER)
        blend(inside, scaled[: inside.shape[0], : inside.shape[1]], mask, feather)
        image = Image.fromarray(result)
        if self.profile is not None:
            image.info["icc_profile"] = self.profile
        return image


def plan(
    image: Image.Image | np.ndarray,
    mask: Image.Image | np.ndarray,
    image_size: tuple[int, int],
    latent_grid: tuple[int, int],
) -> Plan:
    """Fit an image and a mask to a bundle by the rules of this module.

    Args:
        image: what `images.as_rgb` takes: a PIL image, or uint8 [H,W], [H,W,3] or [H,W,4].
        mask: a PIL image, or bool or uint8 [H,W].
        image_size: the bundle's (H, W) in pixels.
        latent_grid: the bundle's (h, w) in cells.

    Raises:
        InputError: image or mask of a kind, size or aspect ratio that is refused, or a mask that selects nothing.
    """
    picture = as_rgb(image)
    pixels = np.asarray(picture)
    check_sides((picture.height, picture.width), image_size)
    selected, notes = _fitted_mask(mask, pixels.shape[:2])
    window = choose_window(selected, image_size)
    colours, inside = window.cut(pixels[..., :3]), window.cut(selected)
    beyond = ((0, window.height - inside.shape[0]), (0, window.width - inside.shape[1]))
    # Mirrored masked pixels are hidden from the model too, but their cells count as kept.
    hidden = _touched(np.pad(inside, beyond, mode="reflect"), image_size)
    seen = Image.fromarray(np.pad(colours, (*beyond, (0, 0)), mode="reflect"))
    reduced = np.asarray(seen.resize((image_size[1], image_size[0]), Image.Resampling.BOX))
    return Plan(
        model_input=_filled(reduced, hidden),
        repaint=_touched(np.pad(inside, beyond), latent_grid),
        kept=~_touched(np.pad(inside, beyond, constant_values=True), latent_grid),
        notes=(*notes, *_window_notes(window, picture.size, image_size)),
        pixels=pixels,
        mask=selected,
        window=window,
        profile=picture.info.get("icc_profile"),
    )


def check_sides(size: tuple[int, int], image_size: tuple[int, int]) -> None:
    """Refuse a picture of a size (H, W) that is not the bundle's own and cannot be fitted to it.

    Raises:
        InputError: a side is too short or too long.
    """
    if size != image_size and not MIN_SIDE <= min(size) <= max(size) <= MAX_SIDE:
        height, width = size
        raise InputError(f"the image has {width}x{height} pixels: each side must have from {MIN_SIDE} to {MAX_SIDE}")


def _fitted_mask(mask: Image.Image | np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, list[str]]:
    """The mask as bool [H,W] of the image's size (H, W), and what was done to it."""
    selected = _selected(mask)
    if not selected.any():
        raise InputError("the mask selects nothing: at least one pixel must be white (128 or above)")
    if selected.shape == size:
        return selected, []
    own, wanted = (f"{shape[1]}x{shape[0]}" for shape in (selected.shape, size))
    if not _same_aspect(selected.shape, size):
        raise InputError(f"the mask is {own} and the image {wanted} pixels: give a mask of the image's aspect ratio")
    return _touched(selected, size), [f"the mask is fitted from {own} to {wanted}: every pixel it touches is repainted"]


def _selected(mask: Image.Image | np.ndarray) -> np.ndarray:
    if isinstance(mask, np.ndarray):
        if mask.ndim != 2 or mask.dtype not in (np.bool_, np.uint8):
            raise InputError(f"a mask array must be bool or uint8 [H,W], not {mask.dtype} {list(mask.shape)}")
        return mask.copy() if mask.dtype == np.bool_ else mask >= 128
    picture = as_rgb(mask, "mask")
    levels = np.asarray(picture.convert("L"))
    if picture.mode == "RGBA":
        levels = np.rint(levels * (np.asarray(picture)[..., 3] / 255.0))
    return np.asarray(levels >= 128)


def _same_aspect(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether one size is the other, scaled and then rounded (up, down or to the nearest) to whole pixels."""
    for first, second in ((one, other), (other, one)):
        for fixed, free in ((0, 1), (1, 0)):
            if abs(first[free] * second[fixed] / first[fixed] - second[free]) < 1:
                return True
    return False


def _touched(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a bool mask [H,W] to `size`: True where any pixel of the area that a new pixel covers is True."""
    for axis, count in enumerate(size):
        edges = np.arange(count + 1) * mask.shape[axis]
        bounds = np.stack([edges[:-1] // count, -(-edges[1:] // count)], axis=1)  # start and end of each new pixel
        padded = np.pad(mask, [(0, int(one == axis)) for one in (0, 1)])  # reduceat wants every end to be an index too
        mask = np.logical_or.reduceat(padded, bounds.ravel(), axis).take(np.arange(0, 2 * count, 2), axis)
    return mask


def choose_window(mask: np.ndarray, image_size: tuple[int, int]) -> Window:
    """The part of an image that the model sees, for a mask, bool [H,W] of the image's size with a True in it."""
    needs, middles = [], []
    for axis, length in enumerate(mask.shape):
        at = np.flatnonzero(mask.any(axis=1 - axis))
        first, end = int(at[0]), int(at[-1]) + 1
        margin = -(-(end - first) // 8)
        needs.append(min(length, end + margin) - max(0, first - margin))
        middles.append((first + end) // 2)
    (high, wide), (height, width) = needs, image_size
    if high > height or wide > width:
        tall = high * width >= wide * height
        height, width = (high, -(-high * width // height)) if tall else (-(-wide * height // width), wide)
    top, left = (
        max(0, min(middle - side // 2, length - side))
        for middle, side, length in zip(middles, (height, width), mask.shape, strict=True)
    )
    return Window(top, left, height, width)


def _window_notes(window: Window, size: tuple[int, int], image_size: tuple[int, int]) -> list[str]:
    (width, height), (model_height, model_width) = size, image_size
    extent = f"{window.width}x{window.height}"
    notes = []
    if width > window.width or height > window.height:
        where = f"column {window.left}, row {window.top}"
        notes.append(f"the model sees a window of {extent} pixels at {where} of the {width}x{height} image")
    if width < window.width or height < window.height:
        part = f"{min(width, window.width)}x{min(height, window.height)}"
        notes.append(f"the window is padded by mirroring from {part} to {extent}")
    if (window.height, window.width) != image_size:
        factor = window.height / model_height
        notes.append(
            f"the window is scaled down by {factor:.2f} to the bundle's {model_width}x{model_height} "
            "and its result back up: repainted parts have no finer detail"
        )
    return notes


def _filled(picture: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The picture, uint8 [H,W,3], with hidden pixels replaced by a smooth fill from the others.

    A pyramid: the picture is halved down to one pixel, each level the weighted mean of what is kept. On the way back up
    a level takes its own mean where it has kept pixels and the smoothly enlarged coarser level where it has none. With
    no kept pixel at all, the fill is mid-grey.
    """
    kept = ~hidden[..., None]
    levels = [np.concatenate([picture * kept, kept], axis=2).astype(np.float32)]  # R, G, B, weight
    while max(levels[-1].shape[:2]) > 1:
        height, width = levels[-1].shape[:2]
        levels.append(resized(levels[-1], (-(-height // 2), -(-width // 2)), Image.Resampling.BOX))
    fill = np.full((1, 1, 3), 127.5, np.float32)
    little = 0.01  # the weight of the coarser level
    for level in reversed(levels):
        fill = resized(fill, level.shape[:2], Image.Resampling.BILINEAR)
        fill = (level[..., :3] + little * fill) / (level[..., 3:] + little)
    return np.where(kept, picture, np.rint(fill).astype(np.uint8))
