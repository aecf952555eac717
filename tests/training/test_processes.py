"""Several processes train one model together: each on its part of every batch, one log, one checkpoint."""

import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from sundae_rt.training import checkpoint, encoding  # noqa: E402


def train_in_two_processes(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "sundae_rt", "train", *map(str, arguments)]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_two_processes_train_both_models_and_the_first_alone_writes(crops, tmp_path):
    # 203 steps: past the start of the adversary, where the encoder freezes.
    said = train_in_two_processes(
        "vqgan", "--preset", "toy", "--data", crops, "--out", tmp_path / "vqgan", "--steps", 203
    )
    assert said.count("step 203/203") == said.count("wrote") == 1
    log = (tmp_path / "vqgan" / "vqgan.log").read_text().splitlines()
    assert len(log) == 5
    assert "hinge" in log[-1]

    codes = tmp_path / "codes.safetensors"
    encoding.encode_folder(crops, codes, vqgan=tmp_path / "vqgan" / "vqgan.pt", say=lambda line: None)
    said = train_in_two_processes(
        "prior", "--preset", "toy", "--codes", codes, "--out", tmp_path / "prior", "--steps", 3
    )
    assert said.count("step 3/3") == said.count("wrote") == 1
    assert checkpoint.load(tmp_path / "prior" / "prior.pt", "prior")["provenance"]["steps"] == 3


def test_two_processes_take_the_gradient_of_one(tmp_path):
    # The halves' mean gradient is the whole batch's; in doubles, which bf16 autocast leaves alone where there is any.
    script = tmp_path / "gradient.py"
    script.write_text(
        "import sys, torch\n"
        "from sundae_rt.training.loop import make_accelerator\n"
        "accelerator = make_accelerator()\n"
        "torch.manual_seed(0)\n"
        "layer = torch.nn.Linear(4, 1).double()\n"
        "batch = torch.randn(8, 4).double()\n"
        "rank, ranks = accelerator.process_index, accelerator.num_processes\n"
        "assert ranks == 2\n"
        "wanted = torch.autograd.grad(layer(batch).square().mean(), layer.weight)[0]\n"
        "wrapped = accelerator.prepare(layer)\n"
        "accelerator.backward(wrapped(batch[rank::ranks]).square().mean())\n"
        "assert torch.allclose(layer.weight.grad, wanted, rtol=0, atol=1e-12)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
