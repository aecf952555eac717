"""Checkpoints are tensors and plain values; presets refuse typos."""

import dataclasses

import pytest

torch = pytest.importorskip("torch")

from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.training import checkpoint, config, describe  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Sizes:
    width: int
    grid: tuple[int, int] = (1, 1)
    rate: float = 0.5
    name: str | None = None


def test_what_is_saved_is_read_again(tmp_path):
    checkpoint.save(tmp_path / "a.pt", {"kind": "prior", "format_version": 1, "weights": {"w": torch.ones(2)}})
    assert torch.equal(checkpoint.load(tmp_path / "a.pt", "prior")["weights"]["w"], torch.ones(2))


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (print, ("harm",))

    torch.save({"weights": Harmful()}, tmp_path / "harmful.pt")
    with pytest.raises(InputError, match="holds more than tensors and plain values: print"):
        checkpoint.read(tmp_path / "harmful.pt")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "vqgan", "format_version": 1}, "is no prior checkpoint"),
        ({"kind": "prior", "format_version": 2}, "checkpoint format 2"),
        ({"state_dict": {}}, "kind is None"),
    ],
)
def test_other_kinds_and_newer_formats_are_refused(tmp_path, values, words):
    checkpoint.save(tmp_path / "a.pt", values)
    with pytest.raises(InputError, match=words):
        checkpoint.load(tmp_path / "a.pt", "prior")


def test_missing_and_truncated_files_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"no checkpoint .*nowhere\.pt"):
        checkpoint.read(tmp_path / "nowhere.pt")
    checkpoint.save(tmp_path / "a.pt", {"weights": torch.ones(100)})
    (tmp_path / "a.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:200])
    with pytest.raises(InputError, match=r"a\.pt"):
        checkpoint.read(tmp_path / "a.pt")


def test_weights_that_do_not_fit_are_named():
    layer = torch.nn.Linear(2, 3)
    good = layer.state_dict()
    with pytest.raises(InputError, match=r"missing weights \['bias'\]"):
        checkpoint.load_weights(layer, {"weight": good["weight"]}, "a.pt")
    with pytest.raises(InputError, match=r"unexpected weights \['extra'\]"):
        checkpoint.load_weights(layer, good | {"extra": torch.ones(1)}, "a.pt")
    with pytest.raises(InputError, match=r"weight is \[1, 2\]"):
        checkpoint.load_weights(layer, good | {"weight": torch.ones(1, 2)}, "a.pt")


def test_a_tensor_hash_knows_names_and_values_but_not_order():
    tensors = {"a": torch.ones(2), "b": torch.zeros(3)}
    assert checkpoint.tensor_hash(tensors) == checkpoint.tensor_hash(dict(reversed(tensors.items())))
    assert checkpoint.tensor_hash(tensors) != checkpoint.tensor_hash(tensors | {"b": torch.ones(3)})


def test_lists_become_tuples_and_defaults_stand():
    assert config.build(Sizes, {"width": 3, "grid": [2, 4]}, "here") == Sizes(3, (2, 4))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"width": 3, "widht": 4}, "here: unknown key 'widht'"),
        ({}, "width"),
        ({"width": "3"}, "width = '3'"),
        ({"width": True}, "width = True"),
        ({"width": 3, "rate": "fast"}, "rate = 'fast'"),
        ({"width": 3, "name": 7}, "name = 7"),
    ],
)
def test_typos_and_wrong_types_are_refused_by_name(values, words):
    with pytest.raises(InputError, match=words):
        config.build(Sizes, values, "here")


@pytest.mark.parametrize(
    ("kind", "preset"),
    [
        (kind, preset)
        for preset in config.preset_names()
        for kind in ("vqgan", "prior")
        if kind in config.sections(preset)
    ],
)
def test_every_preset_describes_itself(preset, kind):
    described = describe(kind, preset)
    assert described["parameters"] > 0
    assert described["kind"] == kind


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"'erth'.*earth, .*toy"):
        describe("prior", "erth")
