"""Checkpoints that are exported: read once, refused by name before any work, and said to lack what they lack."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("yaml")

from safetensors.torch import save_file  # noqa: E402

import reference  # noqa: E402
from sundae_rt.cli import run  # noqa: E402
from sundae_rt.errors import BundleError, InputError  # noqa: E402
from sundae_rt.export import bundle as writing  # noqa: E402
from sundae_rt.export import export_checkpoint  # noqa: E402
from sundae_rt.export.published.labels import label_names  # noqa: E402
from sundae_rt.export.sources import from_checkpoints  # noqa: E402
from sundae_rt.training import checkpoint  # noqa: E402
from sundae_rt.training.prior.hourglass import HourglassConfig, HourglassPrior  # noqa: E402
from vqgans import random_vqgan  # noqa: E402

PRIOR = HourglassPrior(HourglassConfig(19, (8, 8), depth=(1, 1, 1), dims=(16,), heads=(1,), labels=2))


def save_prior(folder: Path, **changes: Any) -> Path:
    """A checkpoint of a prior with these fields, whose VQ-GAN need not be there."""
    values = {
        "format_version": 1,
        "kind": "prior",
        "config": dataclasses.asdict(PRIOR.config),
        "weights": PRIOR.state_dict(),
        "labels": ["cat", "dog"],
        "label_weights": [0.5, 0.5],
        "schedule": {"steps": 7},
        "vqgan": {"file": "vqgan.pt", "codes_sha256": "ab12" + "0" * 60},
        "provenance": {"steps": 1},
    }
    checkpoint.save(folder / "prior.pt", values | changes)
    return folder / "prior.pt"


def save_vqgan(folder: Path) -> tuple[Path, str]:
    """A checkpoint of a VQ-GAN that such a prior may name, and the hash of its codes."""
    model = random_vqgan()
    values = {"format_version": 1, "kind": "vqgan", "provenance": {"steps": 2}}
    values |= {"config": dataclasses.asdict(model.config), "weights": model.state_dict()}
    checkpoint.save(folder / "vqgan.pt", values)
    return folder / "vqgan.pt", checkpoint.tensor_hash(model.codes_parameters())


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file is read."""
    counts: Counter[str] = Counter()
    load = torch.load

    def counted(path: Path, *arguments: Any, **options: Any) -> Any:
        counts[path.name] += 1
        assert options["mmap"]
        return load(path, *arguments, **options)

    monkeypatch.setattr(torch, "load", counted)
    return counts


def test_own_checkpoints_are_read_once(reads: Counter[str], tmp_path: Path) -> None:
    vqgan, codes = save_vqgan(tmp_path)
    sources = from_checkpoints(save_prior(tmp_path, vqgan={"file": "vqgan.pt", "codes_sha256": codes}), None)
    assert reads == {"prior.pt": 1, vqgan.name: 1}
    assert sources.prior is not None
    assert sources.prior.schedule.steps == 7
    assert sources.provenance == {"prior": {"steps": 1}, "vqgan": {"steps": 2, "codes_sha256": codes}}
    assert sources.notes == ()


def test_published_checkpoints_are_read_once(reads: Counter[str]) -> None:
    prior, vqgan = reference.path("prior-tiny.pt"), reference.path("vqgan-tiny.ckpt")
    from_checkpoints(prior, vqgan, config=prior.with_suffix(".toml"), vqgan_config=vqgan.with_suffix(".yaml"))
    assert reads == {prior.name: 1, vqgan.name: 1}


def test_a_published_prior_may_be_safetensors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prior = reference.path("prior-tiny.pt")
    weights = torch.load(prior, weights_only=True)["net"]
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "prior.safetensors")
    monkeypatch.setattr(torch, "load", None)  # newer releases of PyTorch read such files too
    sources = from_checkpoints(tmp_path / "prior.safetensors", None, config=prior.with_suffix(".toml"))
    assert sources.prior is not None
    assert torch.equal(sources.prior.model.code_embedding.weight, weights["token_emb.weight"])


def test_a_damaged_safetensors_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "prior.safetensors").write_text("hello")
    with pytest.raises(InputError, match=r"cannot read .*prior\.safetensors"):
        from_checkpoints(tmp_path / "prior.safetensors", None, config=tmp_path / "c.toml")


def test_a_prior_whose_vqgan_is_not_beside_it_says_so(tmp_path: Path) -> None:
    sources = from_checkpoints(save_prior(tmp_path), None)
    assert sources.vqgan is None
    assert sources.notes == (
        "the prior names vqgan.pt (codes ab1200000000), which is not beside it: exporting the prior alone; "
        "--vqgan adds it from elsewhere",
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": ["a\tb", "dog"]}, r"prior\.pt: a label must be a text without tabs or the like, not 'a\\tb'"),
        ({"labels": [1, 2]}, r"prior\.pt: a label must be a text"),
        ({"labels": ["cat"]}, r"prior\.pt names 1 labels, its config has 2"),
        ({"schedule": {"steps": 0}}, r"prior\.pt: schedule: steps must be a whole number"),
        ({"schedule": {"stepps": 3}}, r"prior\.pt: schedule: unknown key 'stepps'"),
        ({"config": {"vocabulary": 19}}, r"prior\.pt: config: .*latent_grid"),
        ({"config": dataclasses.asdict(PRIOR.config) | {"dims": ["a"]}}, r"prior\.pt: config: dims = \['a'\]"),
        ({"family": "diffusion"}, r"prior\.pt: family 'diffusion' is unknown"),
    ],
)
def test_a_prior_with_a_wrong_field_is_refused_by_file_and_field(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        from_checkpoints(save_prior(tmp_path, **changes), None)


def test_label_names_of_which_one_cannot_be_printed_are_refused_by_that_name(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\nsea\tlion\n")
    with pytest.raises(InputError, match=r"names\.txt: a label must .*, not 'sea\\tlion': rename it"):
        label_names(2, tmp_path / "names.txt")


@pytest.mark.parametrize("name", ["my bundle", "_bundle", "b" * 101, "größe"])
def test_a_name_that_no_bundle_may_have_is_refused_before_any_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(writing, "from_checkpoints", None)
    assert run(["export", "--checkpoint", str(tmp_path / "prior.pt"), "--out", str(tmp_path / name)]) == 1
    told = capsys.readouterr().err
    assert "a bundle's name must be a plain name (up to 100 letters" in told
    assert f"not {name[:70]!r}"[:60] in told
    assert told.endswith(": name another folder with --out\n")
    assert not list(tmp_path.iterdir())


def test_a_bundle_that_could_not_be_opened_is_not_put_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "make", lambda *arguments, **settings: ())
    with pytest.raises(BundleError, match="graphs must hold one graph or more"):
        export_checkpoint(save_prior(tmp_path), out=tmp_path / "bundle", say=lambda line: None)
    assert [path.name for path in tmp_path.iterdir()] == ["prior.pt"]
