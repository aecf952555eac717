"""What the published code makes of its VQ-GANs, ours makes too: in PyTorch, and from a bundle through the runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("yaml")

import reference  # noqa: E402
import sundae_rt  # noqa: E402
from sundae_rt.errors import BundleError  # noqa: E402
from sundae_rt.export import export_checkpoint  # noqa: E402
from sundae_rt.export.published.vqgans import read_vqgan  # noqa: E402
from sundae_rt.training.vqgan.model import to_model  # noqa: E402

FILES = {
    "vqgan-tiny": ("vqgan-tiny.ckpt", "vqgan-tiny.yaml"),
    "gumbel-tiny": ("gumbel-tiny.ckpt", "gumbel-tiny.yaml"),
    "ut-vqgan-tiny": ("ut-vqgan-tiny.th", "ut-vqgan-tiny.json"),
    "diffusers-vq-tiny": ("diffusers-vq-tiny", None),
}


def paths(name: str) -> tuple[Path, Path | None]:
    file, config = FILES[name]
    return reference.path(file), None if config is None else reference.path(config)


@pytest.fixture(scope="module", params=FILES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A reference's name, and its bundle."""
    file, config = paths(request.param)
    out = tmp_path_factory.mktemp(request.param) / "bundle"
    return request.param, export_checkpoint(vqgan=file, vqgan_config=config, out=out, say=lambda line: None)


@pytest.mark.parametrize("name", FILES)
def test_pytorch_does_what_the_published_code_does(name: str) -> None:
    half = read_vqgan(*paths(name))
    model = half.model
    wanted = {key: torch.from_numpy(value) for key, value in reference.recorded(name).items()}
    side = model.config.latent_side
    images = to_model(wanted["images"], model.config.pixel_range)
    with torch.no_grad():
        codes = model.encode(images)
        torch.testing.assert_close(model.quant_conv(model.encoder(images)), wanted["latents"], rtol=0, atol=2e-4)
        assert torch.equal(codes.flatten(1), wanted["indices"])
        torch.testing.assert_close(model.decode(codes), wanted["reconstructions"], rtol=0, atol=1e-4)
        decoded = model.decode(wanted["codes"].view(-1, side, side))
        torch.testing.assert_close(decoded, wanted["decoded"], rtol=0, atol=1e-4)
    assert half.provenance["checkpoint"]


def test_the_bundle_does_what_the_published_code_does(exported: tuple[str, Path]) -> None:
    name, bundle = exported
    wanted = reference.recorded(name)
    with sundae_rt.load(bundle, threads=1, variant="fp32") as runtime:
        manifest = runtime.manifest
        codes, found = wanted["codes"].reshape(-1, *manifest.latent_grid), runtime.encode(wanted["images"])
        pixels = runtime.decode(codes)
        with pytest.raises(BundleError, match=r"no denoiser graph .*: export it from a prior's checkpoint"):
            runtime.generate()
        with pytest.raises(BundleError, match=r"no denoiser graph .*: export it from a prior's checkpoint"):
            runtime.inpaint(wanted["images"][0], np.full(manifest.image_size or (), 255, np.uint8))
    np.testing.assert_array_equal(found.reshape(len(codes), -1), wanted["indices"])
    assert np.abs(pixels.astype(int) - wanted["decoded_uint8"]).max() <= 1
    assert manifest.provenance["vqgan"]["codes_sha256"]
    assert manifest.image_size == wanted["images"].shape[1:3]


def test_a_vqgan_alone_can_have_another_image_size_and_no_square_one(tmp_path: Path) -> None:
    file, _ = paths("diffusers-vq-tiny")
    bundle = export_checkpoint(vqgan=file, image_size=(16, 40), out=tmp_path / "bundle", say=lambda line: None)
    model = read_vqgan(file, None).model
    codes = np.random.default_rng(0).integers(0, 64, (2, 4, 10))
    with sundae_rt.load(bundle, threads=1, variant="fp32") as runtime, torch.no_grad():
        assert (runtime.manifest.image_size, runtime.manifest.latent_grid) == ((16, 40), (4, 10))
        wanted = (model.decode(torch.from_numpy(codes)).permute(0, 2, 3, 1).numpy() + 1) * 127.5
        assert np.abs(runtime.decode(codes) - wanted.clip(0, 255)).max() <= 1


def test_the_command_encode_takes_the_bundle(exported: tuple[str, Path], tmp_path: Path) -> None:
    from PIL import Image

    from sundae_rt.training import encoding

    name, bundle = exported
    wanted = reference.recorded(name)
    (tmp_path / "images").mkdir()
    for index, image in enumerate(wanted["images"]):
        Image.fromarray(image).save(tmp_path / "images" / f"{index}.png")
    found = encoding.encode_folder(
        tmp_path / "images", tmp_path / "codes.safetensors", bundle=bundle, say=lambda line: None
    )
    np.testing.assert_array_equal(found.codes.flatten(1).numpy(), wanted["indices"])
