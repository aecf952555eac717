"""Where files go, and atomic writes: a file or a folder appears whole under its name, or not at all.

The new content is built under a temporary name beside the target and renamed over it at the end. Whatever interrupts
the writing (a full disk, Ctrl-C) removes the temporary one and leaves an earlier target as it was.
"""

import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sundae_rt.errors import InputError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to `path` when the block ends well and removed when it does not.

    The temporary name keeps the suffix, so that writers which choose a format by it choose the right one. Missing
    parent folders are made; a symbolic link is followed, so that it stays a link.

    Raises:
        InputError: `path` is there and no regular file, or writing failed (`OSError` in the block: full disk, no
            permission, ...); the message names the path and the reason.
    """
    target = Path(os.path.realpath(path))
    temporary = _beside(target)
    try:
        if target.exists() and not target.is_file():  # a folder, or a device that a rename would destroy
            raise InputError(f"cannot write {path}: it exists and is not a regular file")
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise _unwritable(path, temporary, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_folder_of(path: Path) -> None:
    """Refuse, before the work whose outcome it shall hold, a file that lies in no folder that is there or can be made.

    Raises:
        InputError: what stands in its way is named.
    """
    folder = next((folder for folder in path.parents if os.path.lexists(folder)), path.parent)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder, so {path} cannot be written: name another")


def check_new(path: Path) -> None:
    """Refuse, before the work whose outcome it shall hold, a file that is there already or that no folder can hold.

    Raises:
        InputError: names the file, or what stands in the way of its folder.
    """
    if path.exists():
        raise InputError(f"{path} exists: name another file")
    check_folder_of(path)


@contextmanager
def replacing_folder(
    path: str | os.PathLike[str], force: bool = False, *, marker: str = "manifest.json"
) -> Iterator[Path]:
    """Yield a new, empty folder beside `path`, renamed to `path` when the block ends well and removed when it does not.

    With `force` an existing folder is replaced, once the new one is whole. Only an empty folder or one that holds
    the file `marker` is ever replaced, so that a mistyped path cannot cost anyone a home directory.

    Raises:
        InputError: `path` exists and may not be replaced (asked before the block runs, and again after it), or writing
            failed; the message names the path and the reason.
    """
    target = Path(os.path.realpath(path))
    temporary, old = _beside(target), _beside(target)
    try:
        _check_replaceable(path, target, force, marker)
        temporary.mkdir(parents=True)
        yield temporary
        _check_replaceable(path, target, force, marker)
        if target.exists():
            os.rename(target, old)
        os.rename(temporary, target)
    except OSError as error:
        raise _unwritable(path, temporary, error) from error
    finally:
        with suppress(OSError):  # interrupted between the two renames: the earlier folder goes back
            if not target.exists():
                os.rename(old, target)
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)


def user_cache() -> Path:
    """The folder for what this user can have made again; it need not exist."""
    if folder := os.environ.get("XDG_CACHE_HOME"):
        base = Path(folder)
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return base / "sundae-rt"


def _check_replaceable(path: str | os.PathLike[str], target: Path, force: bool, marker: str) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"cannot write the folder {path}: a file of that name exists")
    if not force:
        raise InputError(f"{path} exists: choose another name, or replace it with --force")
    if any(target.iterdir()) and not (target / marker).is_file():
        raise InputError(f"{path} is not replaced, even with --force: it holds other things and no {marker}")


def _beside(target: Path) -> Path:
    """A fresh hidden name in the target's folder: on the same disk, hence renamed at once."""
    return target.with_name(f".tmp-{secrets.token_hex(6)}{target.suffix}")


def _unwritable(path: str | os.PathLike[str], temporary: Path, error: OSError) -> InputError:
    reason = error.strerror or str(error) or type(error).__name__
    culprit = error.filename
    if isinstance(culprit, str) and not culprit.startswith(str(temporary)):
        reason += f" ({culprit})"
    return InputError(f"cannot write {path}: {reason}")
