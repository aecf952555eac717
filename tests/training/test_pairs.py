"""Pairs of noise and codes: that the noise alone decides the codes, and what cannot be drawn from."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from click.testing import CliRunner  # noqa: E402

import sundae_rt  # noqa: E402
from sundae_rt import noise  # noqa: E402
from sundae_rt.cli import run  # noqa: E402
from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.training import encoding  # noqa: E402
from sundae_rt.training.prior import pairs  # noqa: E402
from sundae_rt.training.prior import train as prior_training  # noqa: E402


@pytest.fixture(scope="module")
def bundle(prior, tmp_path_factory):
    from sundae_rt.export import export_checkpoint

    return export_checkpoint(prior, out=tmp_path_factory.mktemp("pairs") / "bundle", say=lambda line: None)


def test_a_pair_is_noise_by_its_seed_and_what_the_bundle_makes_of_it(bundle):
    drawn = pairs.draw(bundle, 5, seed=3)
    with sundae_rt.load(bundle) as runtime:
        manifest = runtime.manifest
    assert drawn.noise.shape == drawn.codes.shape == (5, *manifest.latent_grid)
    for row, start in enumerate(drawn.noise.numpy()):
        assert np.array_equal(start.ravel(), noise.initial_codes(3 + row, start.size, manifest.vocabulary))
    assert drawn.labels == manifest.labels and drawn.label_ids.shape == (5,)
    assert drawn.codes_sha256 == manifest.provenance["vqgan"]["codes_sha256"]
    alone = pairs.draw(bundle, 1, seed=5)
    assert torch.equal(alone.codes[0], drawn.codes[2]) and torch.equal(alone.label_ids, drawn.label_ids[2:3])


def test_every_step_of_a_chain_draws_with_the_number_that_its_noise_gives_away(bundle, monkeypatch):
    seen = []
    denoise = sundae_rt.Runtime.denoise

    def listening(self, codes, temperature, uniform, update, label, guidance):
        seen.append((codes.copy(), uniform.copy()))
        return denoise(self, codes, temperature, uniform, update, label, guidance)

    monkeypatch.setattr(sundae_rt.Runtime, "denoise", listening)
    pairs.draw(bundle, 2)
    with sundae_rt.load(bundle) as runtime:
        steps, vocabulary = runtime.schedule().steps, runtime.manifest.vocabulary
    assert len(seen) == steps
    first, uniform = seen[0]
    assert np.array_equal(np.floor((uniform + 0.5) % 1 * vocabulary).astype(np.int32), first)
    assert all(np.array_equal(later, uniform) for _, later in seen)


def test_settings_are_those_of_generate(bundle):
    drawn, other = pairs.draw(bundle, 3), pairs.draw(bundle, 3, steps=1)
    assert not torch.equal(other.codes, drawn.codes)
    assert (drawn.drawn["schedule"]["steps"], other.drawn["schedule"]["steps"]) == (10, 1)
    with pytest.raises(InputError, match="steps must be a whole number from 1"):
        pairs.draw(bundle, 3, steps=0)
    with pytest.raises(InputError, match="seed \\+ n - 1 must be at most"):
        pairs.draw(bundle, 3, seed=2**64 - 2)


def test_they_are_written_and_read_as_codes_are(bundle, tmp_path):
    out = tmp_path / "pairs.safetensors"
    options = ["--bundle", str(bundle), "--n", "3", "--out", str(out)]
    assert CliRunner().invoke(pairs.main, options).exit_code == 0
    read, drawn = encoding.read(out), pairs.draw(bundle, 3)
    assert torch.equal(read.noise, drawn.noise) and torch.equal(read.codes, drawn.codes)
    assert (read.drawn["bundle"], read.drawn["seed"]) == (drawn.drawn["bundle"], 0)
    again = CliRunner().invoke(pairs.main, options)
    assert again.exit_code == 1 and f"{out} exists: name another file" in again.output
    astray = CliRunner().invoke(pairs.main, [*options[:-1], str(out / "below")])
    assert astray.exit_code == 1 and f"{out} is no folder, so " in astray.output and "drawing" not in astray.output


@pytest.mark.parametrize("wrong", ["shape", "code"])
def test_noise_that_does_not_fit_its_codes_is_refused(wrong, bundle, tmp_path):
    drawn = pairs.draw(bundle, 2)
    odd = drawn.noise[:1] if wrong == "shape" else torch.full_like(drawn.noise, drawn.vocabulary)
    encoding.write(tmp_path / "odd", dataclasses.replace(drawn, noise=odd))
    with pytest.raises(InputError, match=r"odd: noise must be \[2, \d+, \d+\] within 0..\d+, as the codes are"):
        encoding.read(tmp_path / "odd")


def test_another_family_has_no_noise_to_pair(tmp_path):
    assert run(["export", "--preset", "toy-absorbing", "--random-weights", "--out", str(tmp_path / "absorbing")]) == 0
    with pytest.raises(InputError, match="is of the family 'absorbing': only 'sundae' starts from noise"):
        pairs.draw(tmp_path / "absorbing", 1)


def test_a_student_has_the_vqgan_of_its_teacher_beside_it(bundle, prior, tmp_path):
    encoding.write(tmp_path / "pairs", pairs.draw(bundle, 4))
    student = prior_training.train(
        tmp_path / "pairs", tmp_path / "student", preset="toy", steps=1, distil=prior, say=lambda line: None
    )
    assert (student.parent / "vqgan.pt").read_bytes() == (prior.parent / "vqgan.pt").read_bytes()
    assert (student.parent / "prior-samples.png").exists()
