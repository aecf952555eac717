"""A prior and a VQ-GAN in one bundle: what must match, and what may differ where nothing records a pairing."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("yaml")

import sundae_rt  # noqa: E402
from sundae_rt import inpainting  # noqa: E402
from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.export import bundle as writing  # noqa: E402
from sundae_rt.export import export_checkpoint  # noqa: E402
from sundae_rt.export.sources import Pairing, PriorHalf, Sources, VQGANHalf, from_checkpoints  # noqa: E402
from sundae_rt.training.prior.hourglass import HourglassConfig, HourglassPrior  # noqa: E402
from vqgans import random_vqgan  # noqa: E402

PAIRED = Pairing("vqgan.pt", "0" * 64)


def prior(vocabulary: int = 19, grid: tuple[int, int] = (8, 8), pairing: Pairing | None = None) -> PriorHalf:
    torch.manual_seed(0)
    sizes = HourglassConfig(vocabulary, grid, depth=(1, 1, 1), dims=(16,), heads=(1,))
    return PriorHalf(HourglassPrior(sizes).eval(), pairing=pairing)


@pytest.fixture(scope="module")
def vqgan() -> VQGANHalf:
    """Nominally 16 x 16 pixels, 8 x 8 codes of 19, attending at the coarser level."""
    return VQGANHalf(random_vqgan(channels=32, attention_resolutions=(8,)))


def test_a_grid_that_is_not_the_nominal_one_makes_images_of_its_own_size(vqgan: VQGANHalf) -> None:
    sources = Sources(prior(grid=(4, 6)), vqgan)
    assert (sources.latent_grid, sources.image_size) == ((4, 6), (8, 12))
    assert sources.notes == (
        "the prior's latent grid is 4x6 and not the VQ-GAN's nominal 8x8: images have 8x12 pixels",
    )


def test_a_prior_may_know_fewer_codes_but_not_more(vqgan: VQGANHalf) -> None:
    assert Sources(prior(12), vqgan).notes == ("the prior knows 12 of the VQ-GAN's 19 codes",)
    assert Sources(prior(19), vqgan).notes == ()
    with pytest.raises(InputError, match=r"the prior has 20 codes, the VQ-GAN's codebook has 19"):
        Sources(prior(20), vqgan)


@pytest.mark.parametrize(
    ("vocabulary", "grid", "told"),
    [(12, (8, 8), r"the prior has 12 codes, .* codebook has 19"), (19, (4, 4), r"grid is 4x4, the VQ-GAN makes 8x8")],
)
def test_a_recorded_pairing_allows_neither(vocabulary: int, grid: tuple[int, int], told: str, vqgan: VQGANHalf) -> None:
    with pytest.raises(InputError, match=told):
        Sources(prior(vocabulary, grid, PAIRED), vqgan)


def test_a_decoder_with_texture_decodes_its_nominal_grid_alone() -> None:
    vqgan = VQGANHalf(random_vqgan(channels=32, texture=True))
    assert Sources(prior(), vqgan).image_size == (16, 16)
    with pytest.raises(InputError, match=r"the latent grid is 4x6, .* texture of its own size and decodes 8x8 alone"):
        Sources(prior(grid=(4, 6)), vqgan)
    with pytest.raises(InputError, match=r"the latent grid is 12x16, .* decodes 8x8 alone"):
        Sources(None, vqgan, (24, 32))


def test_an_image_size_must_suit_the_halves(vqgan: VQGANHalf) -> None:
    assert Sources(None, vqgan, (24, 32)).latent_grid == (12, 16)
    with pytest.raises(InputError, match=r"multiple of the VQ-GAN's f = 2 both ways, not 24x31"):
        Sources(None, vqgan, (24, 31))
    with pytest.raises(InputError, match=r"image size is 24x32, but the prior's grid of 8x8 makes images of 16x16"):
        Sources(prior(), vqgan, (24, 32))
    with pytest.raises(InputError, match=r"needs a VQ-GAN"):
        Sources(prior(), None, (24, 32))


def test_configs_without_the_file_they_belong_to_are_refused() -> None:
    with pytest.raises(InputError, match="nothing to export"):
        from_checkpoints(None, None)
    with pytest.raises(InputError, match=r"c.toml belongs to a published prior"):
        from_checkpoints(None, Path("v.ckpt"), config=Path("c.toml"))
    with pytest.raises(InputError, match=r"c.yaml belongs to a published VQ-GAN"):
        from_checkpoints(Path("p.pt"), None, vqgan_config=Path("c.yaml"))


@pytest.fixture(scope="module")
def exported(vqgan: VQGANHalf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prior of 12 codes on a 4 x 6 grid, with that VQ-GAN of 19 codes."""
    sources = Sources(prior(12, (4, 6)), vqgan)
    out = tmp_path_factory.mktemp("pair") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "from_checkpoints", lambda *_, **__: sources)
        return export_checkpoint(Path("prior.pt"), out=out, logits=True, say=lambda line: None)


def test_encoder_and_decoder_know_all_codes_and_the_denoiser_its_own(exported: Path, vqgan: VQGANHalf) -> None:
    codes = np.arange(24).reshape(1, 4, 6) % 19
    with sundae_rt.load(exported, threads=1, variant="fp32") as runtime, torch.no_grad():
        assert (runtime.manifest.vocabulary, runtime.manifest.codebook_size) == (12, 19)
        wanted = (vqgan.model.decode(torch.from_numpy(codes)).permute(0, 2, 3, 1).numpy() + 1) * 127.5
        assert np.abs(runtime.decode(codes) - wanted.clip(0, 255)).max() <= 1
        assert runtime.logits(codes % 12).shape == (1, 4, 6, 12)
        with pytest.raises(InputError, match="codes must lie from 0 to 11, not 18"):
            runtime.logits(codes)
        with pytest.raises(InputError, match="codes must lie from 0 to 18, not 19"):
            runtime.decode(codes + 1)
        sample = runtime.generate(steps=2)[0]
    assert sample.image.size == (12, 8)
    assert sample.codes.max() < 12


def test_inpainting_makes_kept_cells_anew_whose_codes_the_prior_does_not_know(
    exported: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = np.arange(24, dtype=np.int32).reshape(1, 4, 6) % 19
    mask = np.zeros((8, 12), np.uint8)
    mask[:2, :2] = 255
    with sundae_rt.load(exported, threads=1, variant="fp32") as runtime, caplog.at_level(logging.WARNING, "sundae_rt"):
        monkeypatch.setattr(runtime, "encode", lambda images: codes)
        picture = runtime.decode(codes)[0]
        seen: list[np.ndarray] = []
        monkeypatch.setattr(inpainting, "corrected", lambda made, true, kept: seen.append(kept) or made)
        result = runtime.inpaint(picture, mask, steps=2)[0]
    assert result.codes.max() < 12
    known = (codes[0] < 12) & (np.arange(24).reshape(4, 6) > 0)
    np.testing.assert_array_equal(result.codes[known], codes[0][known])
    np.testing.assert_array_equal(seen[0], known)  # what is made anew shows no error of the decoder
    np.testing.assert_array_equal(np.asarray(result.image)[mask == 0], picture[mask == 0])
    assert "7 of 23 kept cells have codes that the prior does not know (12 of 19 in the codebook)" in caplog.text
