"""What a stranger gets: the wheel, alone in an empty environment, with the four packages that it depends on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from house import FOLDERS, ROOT

# A download that ends so never reached an index; any other failure of pip is a failure of the wheel.
UNREACHABLE = ("connection broken by", "Temporary failure in name resolution", "Network is unreachable")


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command that sees no Python settings of the tests' own environment."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=cwd, env=env)


def shipped_files() -> dict[str, Path]:
    """Every file of the house by the path that it must have in the wheel."""
    return {
        f"{package.replace('.', '/')}/{path.relative_to(folder).as_posix()}": path
        for package, folder in FOLDERS.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, so that nothing left in the tree by an earlier build can slip in."""
    source = tmp_path_factory.mktemp("source")
    for folder in FOLDERS.values():
        shutil.copytree(folder, source / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ("--no-deps", "--no-build-isolation", "--wheel-dir", source / "dist")
    built = run(sys.executable, "-m", "pip", "wheel", ".", *options, cwd=source)
    assert built.returncode == 0, built.stderr
    (found,) = (source / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment into which the wheel was installed, as `pip install sundae-rt` would."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--retries", "2", "--timeout", "60")
    installed = run(*pip, "install", "--no-compile", wheel, cwd=folder)
    if installed.returncode and any(sign in installed.stdout + installed.stderr for sign in UNREACHABLE):
        pytest.skip("the package index cannot be reached, so the wheel's dependencies cannot be installed")
    assert installed.returncode == 0, installed.stderr
    return folder / "bin"


def test_the_wheel_holds_every_file_of_the_house_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert inside == set(shipped_files())
        assert any(name.endswith("/licenses/LICENSE") for name in archive.namelist())


def test_pytorch_is_absent(environment: Path) -> None:
    code = "import importlib.util as u; print([n for n in ('torch', 'onnx', 'export', 'training') if u.find_spec(n)])"
    assert run(environment / "python", "-c", code, cwd=environment).stdout.strip() == "[]"


def test_two_images_from_the_embedded_default(environment: Path, tmp_path: Path) -> None:
    made = run(environment / "sundae-rt", "generate", "--n", "2", "--steps", "4", "--out", "out", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["000000.png", "000001.png"]
    pictures = []
    for path in sorted((tmp_path / "out").iterdir()):
        with Image.open(path) as image:
            image.load()
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (128, 128))
            pictures.append(image.tobytes())
    assert pictures[0] != pictures[1]


def test_a_command_that_needs_an_extra_names_it_in_one_line(environment: Path, tmp_path: Path) -> None:
    asked = run(environment / "sundae-rt", "train", "vqgan", "--data", ".", "--out", "run", cwd=tmp_path)
    assert asked.returncode == 1
    (line,) = asked.stderr.splitlines()
    assert "sundae-rt[train]" in line
