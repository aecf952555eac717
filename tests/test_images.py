"""What becomes of the pictures that people hand in: upright RGB or RGBA, or a refusal by name."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sundae_rt import images
from sundae_rt.errors import InputError
from sundae_rt.images import MAX_PIXELS, as_rgb, open_image

ORIENTATION = 0x0112


def picture(width: int = 12, height: int = 10) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png(width: int, height: int, depth: int, colour_type: int, data: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# Read


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    read = open_image(tmp_path / "a.png")
    assert read.mode == "RGB"
    np.testing.assert_array_equal(read, picture())


@pytest.mark.parametrize(
    ("mode", "becomes"), [("1", "RGB"), ("L", "RGB"), ("P", "RGB"), ("LA", "RGBA"), ("RGBA", "RGBA"), ("PA", "RGBA")]
)
def test_other_eight_bit_modes_become_rgb_with_or_without_alpha(mode: str, becomes: str) -> None:
    source = picture().convert("LA" if mode == "PA" else "RGB").convert(mode)
    read = as_rgb(source)
    assert read.mode == becomes
    np.testing.assert_array_equal(read, source.convert(becomes))


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_becomes_an_alpha_channel(mode: str, tmp_path: Path) -> None:
    flat = Image.new(mode, (8, 8), 7 if mode != "RGB" else (7, 8, 9))
    if mode == "P":
        flat.putpalette([level for level in range(256) for _ in "RGB"])
    flat.putpixel((0, 0), 3 if mode != "RGB" else (1, 2, 3))
    flat.save(tmp_path / "a.png", transparency=3 if mode != "RGB" else (1, 2, 3))
    alpha = np.asarray(open_image(tmp_path / "a.png").getchannel("A"))
    assert alpha[0, 0] == 0
    assert (alpha.ravel()[1:] == 255).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_exif_orientation_turns_the_pixels_and_leaves_no_tag(suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # upright after a clockwise quarter turn
    half = Image.new("RGB", (32, 16), "black")
    half.paste("white", (0, 0, 16, 16))  # the left half, which a clockwise turn brings to the top
    half.save(tmp_path / f"a.{suffix}", exif=exif)
    read = open_image(tmp_path / f"a.{suffix}")
    assert read.size == (16, 32)
    assert np.asarray(read)[4:12].mean() > 250
    assert np.asarray(read)[20:28].mean() < 5
    assert not read.getexif()
    assert read.info == {}


def test_an_rgb_colour_profile_is_kept_and_a_grey_one_is_not(tmp_path: Path) -> None:
    for space, mode, kept in ((b"RGB ", "RGB", True), (b"GRAY", "L", False)):
        profile = bytes(16) + space + bytes(108)
        picture().convert(mode).save(tmp_path / "a.png", icc_profile=profile)
        assert open_image(tmp_path / "a.png").info == ({"icc_profile": profile} if kept else {})


def test_a_phones_jpeg_with_a_preview_is_its_photograph(tmp_path: Path) -> None:
    large, preview = Image.new("RGB", (32, 16), "red"), Image.new("RGB", (8, 4), "blue")
    large.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[preview])
    assert open_image(tmp_path / "a.jpg").size == (32, 16)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_arrays_are_taken_like_pictures(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    read = np.asarray(as_rgb(array))
    np.testing.assert_array_equal(read, array if array.ndim == 3 else np.stack([array] * 3, axis=2))


def test_the_callers_picture_is_left_alone() -> None:
    source = picture()
    source.info["comment"] = "mine"
    as_rgb(source).paste("black", (0, 0, 12, 10))
    np.testing.assert_array_equal(source, picture())
    assert source.info == {"comment": "mine"}


# Refused


@pytest.mark.parametrize(
    ("mode", "named"),
    [("I;16", "8 bits"), ("I", "8 bits"), ("F", "floating"), ("CMYK", "CMYK"), ("YCbCr", "YCbCr"), ("LAB", "LAB")],
)
def test_other_modes_are_refused_with_the_remedy(mode: str, named: str) -> None:
    with pytest.raises(InputError, match=rf"^mask is .*{named}.*: save it as an 8-bit RGB PNG first$"):
        as_rgb(Image.new(mode, (8, 8)), "mask")


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_a_channel_are_refused_even_where_pillow_would_round_them(
    colour_type: int, channels: int, tmp_path: Path
) -> None:
    content = png(8, 8, 16, colour_type, (b"\0" + bytes(8 * channels * 2)) * 8)
    with pytest.raises(InputError, match=r"a\.png is a picture of more than 8 bits a channel"):
        open_image(write(tmp_path / "a.png", content))


@pytest.mark.parametrize("kind", [b"P5", b"P6"])
def test_sixteen_bit_pnm_is_refused(kind: bytes, tmp_path: Path) -> None:
    content = kind + b" 8 8 65535\n" + bytes(8 * 8 * 6)
    with pytest.raises(InputError, match="more than 8 bits"):
        open_image(write(tmp_path / "a.pnm", content))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_several_frames_are_refused(kind: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a", kind, save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="several frames or pages"):
        open_image(tmp_path / "a")


@pytest.mark.parametrize("side", [9_500, 14_000, 60_000])  # over the limit; where Pillow warns; where it refuses
@pytest.mark.filterwarnings("error")
def test_decompression_bombs_are_refused_with_the_limit(side: int, tmp_path: Path) -> None:
    bomb = write(tmp_path / "bomb.png", png(side, side, 8, 0, b""))
    with pytest.raises(InputError, match=rf"bomb\.png has more than {MAX_PIXELS} pixels.*scale it down"):
        open_image(bomb)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.png is no image of a known format \(PNG, JPEG"):
        open_image(write(tmp_path / "a.png", b"not a picture"))


def test_postscript_is_not_run(tmp_path: Path) -> None:
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    with pytest.raises(InputError, match="no image of a known format"):
        open_image(write(tmp_path / "a.eps", content))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM"])
def test_truncated_files_are_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    picture(64, 64).save(buffer, kind)
    for part in (0.1, 0.5, 0.9):
        cut = buffer.getvalue()[: int(len(buffer.getvalue()) * part)]
        with pytest.raises(InputError, match=r"^[^\n]*cut[^\n]*$"):
            open_image(write(tmp_path / "cut", cut))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_files_altered_anywhere_are_read_or_refused_but_never_crash(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF"):
        buffer = io.BytesIO()
        picture(24, 24).save(buffer, kind)
        for _ in range(60):
            content = bytearray(buffer.getvalue())
            for at in rng.integers(0, len(content), 4):
                content[at] = rng.integers(256)
            try:
                open_image(write(tmp_path / "altered", bytes(content)))
            except InputError as error:
                assert "\n" not in str(error)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*none\.png: No such file"):
        open_image(tmp_path / "none.png")
    with pytest.raises(InputError, match="directory"):
        open_image(tmp_path)


@pytest.mark.parametrize(
    "array", [np.zeros((5, 7, 3)), np.zeros((5, 7, 2), np.uint8), np.zeros(5, np.uint8), np.zeros((5, 7), np.uint16)]
)
def test_other_arrays_are_refused_with_dtype_and_shape(array: np.ndarray) -> None:
    with pytest.raises(InputError, match=rf"image must be uint8 .*, not {array.dtype} \[5"):
        as_rgb(array)


def test_other_objects_are_refused() -> None:
    with pytest.raises(InputError, match="not str"):
        as_rgb("a.png")  # type: ignore[arg-type]


def test_a_file_larger_than_any_picture_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 2**20)
    (tmp_path / "film.png").write_bytes(bytes(2**20 + 1))
    with pytest.raises(InputError, match=r"film.png is larger than 1 MiB, the most that is read: it is no picture$"):
        open_image(tmp_path / "film.png")
