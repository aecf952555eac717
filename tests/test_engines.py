"""How the name of a bundle resolves: a bundle that ships, else a path that exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes import write_bundle
from sundae_rt import engines
from sundae_rt.errors import BundleError


def test_a_name_that_ships_wins_over_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path / "moon")
    write_bundle(tmp_path / "house" / "moon")
    monkeypatch.setattr(engines, "__file__", str(tmp_path / "house" / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    assert engines.resolve("moon") == tmp_path / "house" / "moon"
    for here in ("./moon", "moon/", str(tmp_path / "moon"), Path("moon")):
        assert engines.resolve(here) == Path(here)


def test_a_name_is_a_bundle_that_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path / "house" / "moon")
    monkeypatch.setattr(engines, "__file__", str(tmp_path / "house" / "__init__.py"))
    assert engines.shipped() == {"moon": tmp_path / "house" / "moon"}
    assert engines.resolve("moon") == tmp_path / "house" / "moon"


def test_what_is_neither_is_refused_with_the_names_that_ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path / "moon")
    monkeypatch.setattr(engines, "__file__", str(tmp_path / "__init__.py"))
    for name in ("mars", "moon/../mars", "../mars"):
        with pytest.raises(BundleError, match=r"neither one that ships \(moon\) nor a path that exists"):
            engines.resolve(name)


def test_a_name_too_long_for_a_path_is_no_bundle() -> None:
    with pytest.raises(BundleError, match=r"^no bundle 'xxx[^\n]{1,150}$"):
        engines.resolve("x" * 5000)
