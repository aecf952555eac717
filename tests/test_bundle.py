"""A bundle is a folder or a zip file; nothing of it is used before its hash is checked, nothing outside it is read."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path

import pytest

from fakes import write_bundle
from sundae_rt.bundle import Bundle
from sundae_rt.errors import BundleError


@pytest.fixture(params=["folder", "zip"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = write_bundle(tmp_path / "bundle", holds=("denoiser", "decoder"))
    return folder if request.param == "folder" else Path(shutil.make_archive(str(folder), "zip", folder))


def test_a_bundle_is_a_folder_or_a_zip_file(path: Path) -> None:
    bundle = Bundle.open(path)
    assert bundle.manifest.name == "fake"
    assert bundle.read("denoiser", "fp32") == b"denoiser"


def test_the_size_of_a_graph_is_that_of_its_files(path: Path) -> None:
    assert Bundle.open(path).size("denoiser", "fp32") == len(b"denoiser")


def test_the_fingerprint_is_the_hash_of_the_manifest(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    expected = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert Bundle.open(folder).fingerprint == expected


def test_a_graph_that_is_not_there_is_named_with_the_remedy(path: Path) -> None:
    with pytest.raises(BundleError, match=r"'fake' has no encoder graph \(it holds denoiser, decoder\): .* --vqgan"):
        Bundle.open(path).read("encoder", "fp32")
    with pytest.raises(BundleError, match=r"denoiser has no variant 'int8' \(it has fp32\)"):
        Bundle.open(path).read("denoiser", "int8")


def test_an_altered_or_missing_file_is_named(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    (folder / "denoiser.onnx").write_text("Denoiser")
    (folder / "decoder.onnx").unlink()
    bundle = Bundle.open(folder)
    with pytest.raises(BundleError, match=r"denoiser\.onnx is damaged or was altered"):
        bundle.read("denoiser", "fp32")
    with pytest.raises(BundleError, match=r"decoder\.onnx is missing"):
        bundle.read("decoder", "fp32")
    with pytest.raises(BundleError, match=r"decoder\.onnx is missing"):
        bundle.size("decoder", "fp32")


def test_a_link_out_of_the_bundle_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    (folder / "denoiser.onnx").rename(tmp_path / "outside")
    (folder / "denoiser.onnx").symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match=r"denoiser\.onnx is a link that leads out"):
        Bundle.open(folder).read("denoiser", "fp32")


def test_a_link_to_a_bundle_is_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(write_bundle(tmp_path / "bundle"), target_is_directory=True)
    assert Bundle.open(tmp_path / "link").read("denoiser", "fp32") == b"denoiser"


@pytest.mark.parametrize("keep", [0.3, 0.97])
def test_a_truncated_zip_is_refused(tmp_path: Path, keep: float) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "b"), "zip", write_bundle(tmp_path / "bundle")))
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(BundleError, match=r"b\.zip: not a readable zip file"):
        Bundle.open(archive)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_zip_is_refused_however_it_is_compressed(tmp_path: Path, compression: int) -> None:
    folder = write_bundle(tmp_path / "bundle")
    with zipfile.ZipFile(tmp_path / "b.zip", "w", compression) as archive:
        archive.write(folder / "manifest.json", "manifest.json")
    content = bytearray((tmp_path / "b.zip").read_bytes())
    content[80:120] = bytes(40)
    (tmp_path / "b.zip").write_bytes(content)
    with pytest.raises(BundleError, match=r"b\.zip: (not a readable zip file|cannot read manifest\.json): [^\n]+$"):
        Bundle.open(tmp_path / "b.zip")


def test_a_zip_whose_names_are_no_text_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("ü", "")  # flagged as UTF-8
    content = (tmp_path / "b.zip").read_bytes()
    (tmp_path / "b.zip").write_bytes(content.replace("ü".encode(), b"\xff\xff"))
    with pytest.raises(BundleError, match=r"b\.zip: not a readable zip file: "):
        Bundle.open(tmp_path / "b.zip")


def test_what_is_no_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nowhere: no such bundle"):
        Bundle.open(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"manifest\.json is missing"):
        Bundle.open(tmp_path)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(BundleError, match=r"text: not a readable zip file"):
        Bundle.open(tmp_path / "text")
    with pytest.raises(BundleError, match=r"bundle: manifest: latent_grid"):
        Bundle.open(write_bundle(tmp_path / "bundle", latent_grid=0))
