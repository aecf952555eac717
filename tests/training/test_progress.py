"""What a training shows and leaves on its way: a bar or lines, a log, and sheets that are whole."""

import os
import re
import sys

import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.training import encoding, loop, sheets  # noqa: E402
from sundae_rt.training.prior import train as prior_training  # noqa: E402


@pytest.fixture
def clock(monkeypatch):
    """The time, in its first element."""
    now = [100.0]
    monkeypatch.setattr("sundae_rt.training.loop.time.perf_counter", lambda: now[0])
    return now


def shown_on_a_terminal(steps, figures, columns, tmp_path, clock, monkeypatch, capsys):
    """What a terminal of a width shows of steps of two seconds and eight images each, drawing by drawing."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(loop.shutil, "get_terminal_size", lambda: os.terminal_size((columns, 24)))
    with loop.Progress(steps, 0, 8, tmp_path / "log", every=2) as progress:
        for _ in range(steps):
            clock[0] += 2
            progress.update(figures)
    return [re.sub(r"\x1b\[[?0-9]*\w", "", drawing) for drawing in capsys.readouterr().out.split("\r")]


def test_the_bar_shows_loss_accuracy_and_images_a_second(tmp_path, clock, monkeypatch, capsys):
    figures = {"loss": 4.5, "accuracy": 0.25}
    shown = shown_on_a_terminal(3, figures, 100, tmp_path, clock, monkeypatch, capsys)
    steps = [drawing for drawing in shown if "images/s" in drawing]
    assert [re.search(r"(\d)/3", drawing)[1] for drawing in steps] == ["1", "2", "3"]
    assert all("images/s 4.0  loss 4.5  accuracy 0.25" in drawing for drawing in steps)
    assert shown[-1].endswith("\n")  # what is said next stands on a line of its own
    assert (tmp_path / "log").read_text().splitlines() == [
        "step 2/3  loss 4.5000  accuracy 0.2500  images/s 4.0",
        "step 3/3  loss 4.5000  accuracy 0.2500  images/s 4.0",
    ]


def test_the_bar_stays_on_one_line(tmp_path, clock, monkeypatch, capsys):
    figures = {f"figure-{number}": 1.2345 for number in range(11)}
    shown = shown_on_a_terminal(3, figures, 80, tmp_path, clock, monkeypatch, capsys)
    assert all(len(drawing.rstrip()) < 80 for drawing in shown)
    assert "images/s 4.0  figure-0 1" in shown[-1]


def test_a_sheet_that_cannot_be_written_leaves_the_earlier_one(tmp_path, monkeypatch):
    def full_disk(image, path):
        path.write_bytes(b"half a")
        raise OSError(28, "No space left on device")

    pictures = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(-1, 2, 3, 3)
    sheets.write(tmp_path / "sheet.png", pictures, columns=3)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (9, 4)
        assert [sheet.getpixel((x, y))[0] for y in (0, 2) for x in (0, 3, 6)] == list(range(6))
    before = (tmp_path / "sheet.png").read_bytes()
    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(InputError, match=r"cannot write .*sheet\.png: No space left"):
        sheets.write(tmp_path / "sheet.png", pictures, columns=3)
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    assert (tmp_path / "sheet.png").read_bytes() == before


def test_a_vqgan_that_cannot_be_copied_beside_the_prior_is_not_there(tmp_path, monkeypatch):
    def full_disk(source, target):
        target.write_bytes(source.read_bytes()[:4])
        raise OSError(28, "No space left on device")

    (tmp_path / "vqgan.pt").write_bytes(b"a whole VQ-GAN")
    codes = torch.zeros(4, 8, 8, dtype=torch.int32)
    dataset = encoding.LatentDataset(codes, 64, None, None, "vqgan.pt", "unknown")
    encoding.write(tmp_path / "codes.safetensors", dataset)
    monkeypatch.setattr("shutil.copyfile", full_disk)
    with pytest.raises(InputError, match=r"cannot write .*vqgan\.pt: No space left"):
        prior_training.train(tmp_path / "codes.safetensors", tmp_path / "prior", preset="toy")
    assert not list((tmp_path / "prior").iterdir())
