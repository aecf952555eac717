"""Engines as files: found under exactly their key, and never loaded where anything is different or damaged."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes import labelled, write_bundle
from sundae_rt import engines
from sundae_rt.bundle import Bundle
from sundae_rt.errors import InputError
from sundae_rt.tensorrt.cache import Cache, Key, Stored

KEY = Key("denoiser", "fp16", "a" * 64, "tensorrt_rtx", "1.7.1", "portable", ("1", "1:64"))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    cache = Cache([tmp_path / "engines"])
    assert cache.read(KEY) == (None, "")
    path = cache.write(KEY, b"engine")
    assert path.parent == tmp_path / "engines"
    assert cache.read(KEY) == (Stored(b"engine", path), "")


def test_the_entry_says_what_the_engine_is(tmp_path: Path) -> None:
    path = Cache([tmp_path]).write(KEY, b"engine")
    entry = json.loads(path.with_suffix(".json").read_text())
    assert (entry["builder"], entry["builder_version"], entry["capability"]) == ("tensorrt_rtx", "1.7.1", "portable")
    assert (entry["graph_sha256"], entry["profiles"], entry["bytes"]) == ("a" * 64, ["1", "1:64"], 6)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"graph_sha256": "b" * 64}, "the one here was built from another graph"),
        ({"builder": "tensorrt"}, "the one here was built by tensorrt_rtx 1.7.1"),
        ({"builder_version": "1.8.0"}, "the one here was built by tensorrt_rtx 1.7.1"),
        ({"capability": "8.9"}, "the one here is for compute capability portable"),
        ({"profiles": ("1:8",)}, "the one here is for batches of 1, 1:64"),
        ({"graph": "decoder"}, ""),
        ({"variant": "bf16"}, ""),
    ],
)
def test_an_engine_of_another_key_is_not_read_and_the_difference_is_said(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    cache = Cache([tmp_path])
    cache.write(KEY, b"engine")
    assert cache.read(replace(KEY, **change)) == (None, reason)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda engine, entry: engine.write_bytes(b"eng"), r"has 3 bytes and should have 6"),
        (lambda engine, entry: engine.write_bytes(b"enginE"), r"is damaged or was altered"),
        (lambda engine, entry: engine.unlink(), r"cannot read .*: No such file"),
        (lambda engine, entry: entry.unlink(), r"the entry of .* is missing or damaged"),
        (lambda engine, entry: entry.write_text("{"), r"the entry of .* is missing or damaged"),
        (lambda engine, entry: entry.write_text("[]"), r"the entry of .* is missing or damaged"),
        (
            lambda engine, entry: entry.write_text(entry.read_text().replace("1.7.1", "1.6.0")),
            r"says that it is of another builder_version",
        ),
    ],
)
def test_damage_is_never_loaded_and_is_said(tmp_path: Path, damage: Any, reason: str) -> None:
    cache = Cache([tmp_path])
    path = cache.write(KEY, b"engine")
    damage(path, path.with_suffix(".json"))
    engine, why = cache.read(KEY)
    assert engine is None
    assert re.search(reason, why)
    cache.write(KEY, b"engine")
    assert cache.read(KEY) == (Stored(b"engine", path), "")


def test_an_engine_of_a_replaced_graph_or_version_goes_and_others_stay(tmp_path: Path) -> None:
    cache = Cache([tmp_path])
    others = [
        replace(KEY, builder="tensorrt"),
        replace(KEY, capability="8.9"),
        replace(KEY, profiles=("1",)),
        replace(KEY, graph="decoder", graph_sha256="c" * 64),
    ]
    for key in (KEY, *others):
        cache.write(key, b"engine")
    newer = replace(KEY, builder_version="1.8.0")
    cache.write(newer, b"engine")
    assert cache.read(KEY)[0] is None
    assert cache.read(newer)[0] is not None
    assert None not in [cache.read(key)[0] for key in (others[0], others[3])]
    assert {path.stem for path in tmp_path.glob("*.engine")} == {path.stem for path in tmp_path.glob("*.json")}


def test_engines_for_other_batches_are_found(tmp_path: Path) -> None:
    cache = Cache([tmp_path])
    wanted = replace(KEY, profiles=("1:8",))
    for key in (wanted, replace(KEY, capability="8.9", profiles=("2",))):
        cache.write(key, b"engine")
    assert cache.for_other_batches(KEY) == [wanted]


def test_all_folders_are_read_and_the_first_that_can_be_written_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    path = Cache([tmp_path / "second"]).write(KEY, b"older")
    cache = Cache([tmp_path / "file" / "engines", tmp_path / "second"])
    assert cache.read(KEY) == (Stored(b"older", path), "")
    assert cache.write(replace(KEY, capability="8.9"), b"engine").parent == tmp_path / "second"
    with pytest.raises(InputError, match=r"^cannot keep an engine in .*file/engines: not writable$"):
        Cache([tmp_path / "file" / "engines"]).write(KEY, b"engine")


# Where a bundle's engines are kept


def test_a_folder_keeps_its_own_engines_and_the_users_cache_is_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = Bundle.open(write_bundle(tmp_path / "fake", **labelled()))
    origin = bundle.origin("denoiser", "fp32")
    assert origin.folders[0] == tmp_path / "fake" / "engines"
    assert origin.folders[1] == tmp_path / "cache" / "sundae-rt" / "engines" / f"fake-{bundle.fingerprint[:12]}"
    assert origin.sha256 == bundle.manifest.graphs["denoiser"]["fp32"].sha256


def test_a_bundle_that_ships_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (folder,) = Bundle.open(engines.resolve("earth")).origin("denoiser", "fp32").folders
    assert folder.is_relative_to(tmp_path)
