"""Folders of images, and batches that depend on the step alone."""

from itertools import chain

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.training.data import ImageFolder, StepSampler, batches  # noqa: E402


def picture(path, size=(8, 8), value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8)).save(path)


def test_subfolders_are_labels_in_alphabetical_order(tmp_path):
    picture(tmp_path / "sea" / "b.png", value=1)
    picture(tmp_path / "land" / "a.png", value=2)
    images = ImageFolder(tmp_path, 8)
    assert images.labels == ["land", "sea"]
    assert images.label_ids == [0, 1]
    assert int(images[1].max()) == 1


def test_another_size_is_scaled_by_its_shorter_side_and_cut_from_the_middle(tmp_path):
    wide = np.zeros((8, 32, 3), np.uint8)
    wide[:, 12:20] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert int(ImageFolder(tmp_path, 8)[0].min()) == 255


def test_a_line_of_a_million_pixels_costs_no_more_than_its_middle(tmp_path, monkeypatch):
    picture(tmp_path / "line.png", size=(1, 1_000_000), value=7)
    sizes, resize = [], Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *how: (sizes.append(size), resize(self, size, *how))[1]
    )
    assert ImageFolder(tmp_path, 8)[0].unique().tolist() == [7]
    assert sizes == [(8, 32)]


def test_what_some_program_hid_in_the_folder_is_not_meant(tmp_path):
    for name in ("sea/a.png", ".thumbs/a.png", "sea/._a.png", "sea/.cache/b.png"):
        picture(tmp_path / name)
    assert [path.name for path in ImageFolder(tmp_path, 8).files] == ["a.png"]


def test_a_folder_that_is_no_name_of_a_label_is_refused(tmp_path):
    picture(tmp_path / "a\tb" / "a.png")
    with pytest.raises(InputError, match=r"a label must be a text without tabs or the like, not 'a\\tb': rename it"):
        ImageFolder(tmp_path, 8)


def test_turns_are_the_eight_of_the_square(tmp_path):
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3)).save(tmp_path / "a.png")
    images = ImageFolder(tmp_path, 2)
    turned = {tuple(images[0, turn].flatten().tolist()) for turn in range(8)}
    assert len(turned) == 8
    assert torch.equal(images[0, 0], images[0])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "holds no image"),
        (["loose.png", "sea/a.png"], "loose.png"),
    ],
)
def test_bad_folders_are_refused_by_name(tmp_path, names, words):
    for name in names:
        picture(tmp_path / name)
    with pytest.raises(InputError, match=words):
        ImageFolder(tmp_path, 8)


def test_a_missing_folder_and_a_broken_image_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        ImageFolder(tmp_path / "nowhere", 8)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"broken\.png"):
        ImageFolder(tmp_path, 8)[0]


def test_pictures_are_read_by_the_rules_of_inpaint(tmp_path):
    upright = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    orientation = Image.Exif()
    orientation[0x0112] = 6  # to be turned clockwise
    upright.rotate(90).save(tmp_path / "a.png", exif=orientation)
    upright.convert("RGBA").save(tmp_path / "b.png")
    images = ImageFolder(tmp_path, 8)
    assert np.array_equal(images[0].numpy(), np.asarray(upright))
    assert np.array_equal(images[1].numpy(), np.asarray(upright))


def deep(path):
    Image.fromarray(np.full((8, 8), 300, np.uint16)).save(path)


def printed(path):
    Image.new("CMYK", (8, 8)).save(path, "JPEG")


def damaged(path):
    picture(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:8] + b"\xff\xff\xff\xff" + whole[12:])  # the length of its first chunk


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (deep, "a picture of more than 8 bits a channel, which is not read"),
        (printed, "a picture in CMYK, which is not read"),
        (damaged, r"cannot read .*a\.png|is no image"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_of_other_kinds_are_refused_in_one_line_that_names_the_file(make, words, workers, tmp_path):
    make(tmp_path / "a.png")
    with pytest.raises(InputError, match=words) as refused:
        list(batches(ImageFolder(tmp_path, 8), StepSampler(1, 1, 0, 1, seed=0, turns=False), workers))
    assert str(refused.value).startswith((str(tmp_path / "a.png"), "cannot read"))
    assert str(tmp_path / "a.png") in str(refused.value) and "\n" not in str(refused.value)


def test_a_folder_with_the_name_of_a_picture_is_a_folder(tmp_path):
    picture(tmp_path / "c.png" / "a.png")
    (tmp_path / "c.png" / "empty.jpg").mkdir()
    images = ImageFolder(tmp_path, 8)
    assert ([file.name for file in images.files], images.labels) == (["a.png"], ["c.png"])


def test_the_fingerprint_knows_names_and_lengths_but_not_the_place(tmp_path):
    for folder in ("here", "there"):
        picture(tmp_path / folder / "a.png")
        picture(tmp_path / folder / "b.png")
    here, there = (ImageFolder(tmp_path / folder, 8).fingerprint() for folder in ("here", "there"))
    assert here == there
    (tmp_path / "there" / "b.png").rename(tmp_path / "there" / "c.png")
    picture(tmp_path / "here" / "b.png", size=(64, 64))
    assert len({here, *(ImageFolder(tmp_path / folder, 8).fingerprint() for folder in ("here", "there"))}) == 3


def test_batches_are_the_same_wherever_a_run_starts():
    whole = list(StepSampler(10, 4, 0, 9, seed=1, turns=True))
    assert list(StepSampler(10, 4, 5, 9, seed=1, turns=True)) == whole[5:]


def test_each_epoch_shows_every_item_once():
    items = [index for batch in StepSampler(8, 4, 0, 4, seed=1, turns=False) for index, _ in batch]
    assert sorted(items[:8]) == sorted(items[8:]) == list(range(8))
    assert items[:8] != items[8:]


def test_processes_share_each_batch():
    whole = list(StepSampler(10, 4, 0, 3, seed=1, turns=True))
    parts = [list(StepSampler(10, 4, 0, 3, 1, True, rank, 2)) for rank in range(2)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert sorted(first + second) == sorted(batch)
        assert len(first) == len(second)


def test_a_step_has_the_same_batch_whatever_number_of_processes_went_before():
    whole = [sorted(batch) for batch in StepSampler(10, 4, 0, 9, seed=1, turns=True)]
    resumed = [list(StepSampler(10, 4, 5, 9, 1, True, rank, 4)) for rank in range(4)]
    assert [sorted(chain(*parts)) for parts in zip(*resumed, strict=True)] == whole[5:]
