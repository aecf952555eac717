"""A file or folder is written whole, or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sundae_rt.errors import InputError
from sundae_rt.files import replacing, replacing_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_under_its_name_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "image.png"
    with replacing(target) as temporary:
        assert temporary.suffix == ".png"
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert names(target.parent) == ["image.png"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_interrupts_the_writing_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "image.png"
    target.write_text("old")
    with pytest.raises(error), replacing(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["image.png"]


def test_a_full_disk_is_one_line_that_names_the_path(tmp_path: Path) -> None:
    target = tmp_path / "image.png"
    with pytest.raises(InputError, match=r"^cannot write .*image\.png: No space left on device$"), replacing(target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert names(tmp_path) == []


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    link.symlink_to(real)
    with replacing(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_only_a_regular_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(InputError, match=r"not a regular file"), replacing(tmp_path / name):
            pytest.fail("the block must not run")


def test_a_parent_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write .*file/image\.png"), replacing(tmp_path / "file" / "image.png"):
        pytest.fail("the block must not run")


def test_a_folder_appears_under_its_name_at_the_end(tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "bundle") as temporary:
        (temporary / "manifest.json").write_text("new")
        assert not (tmp_path / "bundle").exists()
    assert names(tmp_path) == ["bundle"]
    assert names(tmp_path / "bundle") == ["manifest.json"]


def test_an_existing_folder_needs_force(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_text("old")
    with pytest.raises(InputError, match=r"--force"), replacing_folder(tmp_path / "bundle"):
        pytest.fail("the block must not run")
    with replacing_folder(tmp_path / "bundle", force=True) as temporary:
        (temporary / "other").touch()
    assert names(tmp_path / "bundle") == ["other"]
    assert names(tmp_path) == ["bundle"]


def test_force_replaces_no_folder_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"holds other things"), replacing_folder(tmp_path, force=True):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("force", [False, True])
def test_an_interrupted_folder_leaves_no_trace(tmp_path: Path, force: bool) -> None:
    target = tmp_path / "bundle"
    if force:
        target.mkdir()
        (target / "manifest.json").write_text("old")
    before = names(tmp_path)
    with pytest.raises(KeyboardInterrupt), replacing_folder(target, force) as temporary:
        (temporary / "half").touch()
        raise KeyboardInterrupt
    assert names(tmp_path) == before
    assert not force or (target / "manifest.json").read_text() == "old"


def test_the_old_folder_goes_back_if_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "manifest.json").write_text("old")
    rename = os.rename
    calls: list[str] = []

    def second_fails(source: Path, destination: Path) -> None:
        calls.append(str(source))
        if len(calls) == 2:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        rename(source, destination)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(InputError, match=r"Permission denied"), replacing_folder(target, force=True):
        pass
    assert names(tmp_path) == ["bundle"]
    assert (target / "manifest.json").read_text() == "old"
