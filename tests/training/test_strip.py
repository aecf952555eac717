"""Files that hold more than tensors: what is in them is named, their tensors are had, and nothing in them runs."""

import argparse
import collections
import os
import shlex
import subprocess
import sys
import types

import pytest

torch = pytest.importorskip("torch")

from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.training import checkpoint, foreign  # noqa: E402
from sundae_rt.training.strip import strip  # noqa: E402

BASE = torch.arange(12.0).reshape(3, 4)
WEIGHTS = {
    "base": BASE,
    "rows": BASE[1:],
    "turned": BASE.t(),
    "half": torch.ones(3).half(),
    "bfloat16": torch.ones(2).bfloat16(),
    "complex": torch.ones(2, dtype=torch.complex64),
    "truth": torch.tensor([True, False]),
    "one": torch.tensor(5),
    "none": torch.empty(0),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "bytes": torch.ones(2, dtype=torch.uint8),
}


@pytest.fixture
def lightning(monkeypatch):
    """A module whose classes are pickled by name, and which is gone when they are read."""
    module = types.ModuleType("no_such_lightning")
    for name, base in (("ModelCheckpoint", object), ("Settings", dict)):
        setattr(module, name, type(name, (base,), {"__module__": module.__name__}))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    yield module
    assert module.__name__ not in sys.modules


def save(path, values, lightning=None, **how):
    torch.save(values, path, **how)
    if lightning is not None:
        del sys.modules[lightning.__name__]
    return path


def same(found, wanted):
    return found.dtype == wanted.dtype and torch.equal(found, wanted.detach())


@pytest.mark.parametrize("how", [{}, {"pickle_protocol": 4}, {"_use_new_zipfile_serialization": False}], ids=str)
def test_a_checkpoint_of_lightning_keeps_its_tensors_in_their_nesting(lightning, how, tmp_path):
    callback = lightning.ModelCheckpoint()
    callback.best = torch.ones(1)
    values = {
        "state_dict": collections.OrderedDict(WEIGHTS),
        "callbacks": {lightning.ModelCheckpoint: {"score": torch.ones(4)}, "second": callback},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3)}}}, callback],
        "hyper_parameters": lightning.Settings(lr=0.5, args=argparse.Namespace(gpus=2)),
        "grouped": collections.defaultdict(list, {"weight": BASE}),
        "epoch": 3,
    }
    path = save(tmp_path / "model.ckpt", values, lightning, **how)
    lines = []
    strip(path, tmp_path / "out.ckpt", lines.append)
    found = checkpoint.read(tmp_path / "out.ckpt")
    assert found["state_dict"].keys() == WEIGHTS.keys()
    assert all(same(found["state_dict"][name], tensor) for name, tensor in WEIGHTS.items())
    assert same(found["callbacks"]["no_such_lightning.ModelCheckpoint"]["score"], torch.ones(4))
    assert found["optimizer_states"] == [{"state": {0: {"step": 3}}}, None]
    assert found["hyper_parameters"] == {"lr": 0.5}
    assert same(found["grouped"]["weight"], BASE)
    assert found["epoch"] == 3
    assert "second" not in found["callbacks"]
    left_out = "argparse.Namespace, builtins.list, collections.defaultdict, no_such_lightning.ModelCheckpoint, no_such"
    assert f"{len(WEIGHTS) + 3} tensors; left out: {left_out}" in lines[0]


def test_a_bare_state_dict_with_a_namespace_loses_the_namespace_alone(tmp_path):
    path = save(tmp_path / "bare.pt", {**WEIGHTS, "args": argparse.Namespace(lr=1)})
    assert foreign.names(path) == ("argparse.Namespace",)
    strip(path, tmp_path / "out.pt", print)
    assert checkpoint.read(tmp_path / "out.pt").keys() == WEIGHTS.keys()


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}], ids=str)
def test_what_would_run_a_command_does_not_run(how, tmp_path):
    harmed = tmp_path / "harmed"

    class Harmful:
        def __reduce__(self):
            return (os.system, (f"touch {harmed}",))

    path = save(tmp_path / "harmful.pt", {"net": {"w": BASE}, "x": Harmful()}, **how)
    with pytest.raises(InputError, match=r"more than tensors and plain values: (posix|nt)\.system\. Nothing"):
        checkpoint.read(path)
    strip(path, tmp_path / "out.pt", print)
    found = checkpoint.read(tmp_path / "out.pt")
    assert found.keys() == {"net"}
    assert same(found["net"]["w"], BASE)
    assert not harmed.exists()


def test_the_command_that_the_message_gives_works_whatever_the_path(lightning, tmp_path):
    folder = tmp_path / "it's here"
    folder.mkdir()
    values = {"net": WEIGHTS, "callback": lightning.ModelCheckpoint(), "args": argparse.Namespace()}
    path = save(folder / "prior.pt", values, lightning)
    with pytest.raises(InputError, match=r"values: argparse\.Namespace, no_such_lightning\.ModelCheckpoint\. ") as told:
        checkpoint.read(path)
    command = shlex.split(str(told.value).rpartition("runs nothing either: ")[2])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert checkpoint.read(folder / "prior-tensors.pt")["net"].keys() == WEIGHTS.keys()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "exists: name another file" in again.stderr


def test_a_module_pickled_whole_is_refused_with_what_to_save_instead(tmp_path):
    path = save(tmp_path / "module.pt", torch.nn.Linear(2, 2))
    with pytest.raises(
        InputError, match=r"no tensors outside of objects \(torch.nn.modules.linear.Linear\).*state_dict"
    ):
        strip(path, tmp_path / "out.pt", print)
    assert not (tmp_path / "out.pt").exists()


def test_a_pickle_that_does_not_add_up_is_refused(tmp_path):
    path = save(tmp_path / "long.pt", {"w": torch.ones(3, 4)}, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"K\x03K\x04\x86", b"K\x03K\xff\x86"))
    with pytest.raises(InputError, match=r"long.pt is damaged or cut short"):
        foreign.read(path)
