"""Checkpoints are tensors and plain values; presets refuse typos."""

import contextlib
import dataclasses
import zipfile

import pytest

torch = pytest.importorskip("torch")

from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.training import checkpoint, config, describe, encoding  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Sizes:
    width: int
    grid: tuple[int, int] = (1, 1)
    rate: float = 0.5
    name: str | None = None


PRIOR = {
    "format_version": 1,
    "kind": "prior",
    "config": {},
    "weights": {"w": torch.ones(2)},
    "provenance": {},
    "labels": None,
    "label_weights": None,
    "schedule": {},
    "vqgan": {"file": "vqgan.pt", "codes_sha256": "0" * 64},
}


@contextlib.contextmanager
def full_disk(limit=10_000):
    """No file can grow beyond ``limit`` bytes."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("mmap", [False, True])
def test_what_is_saved_is_read_again(mmap, tmp_path):
    checkpoint.save(tmp_path / "a.pt", PRIOR)
    assert torch.equal(checkpoint.load(tmp_path / "a.pt", "prior")["weights"]["w"], torch.ones(2))
    assert torch.equal(checkpoint.read(tmp_path / "a.pt", mmap)["weights"]["w"], torch.ones(2))


def test_a_file_of_an_older_form_is_read_too(tmp_path):
    torch.save(PRIOR, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert checkpoint.load(tmp_path / "a.pt", "prior")["kind"] == "prior"


def test_a_full_disk_is_said_in_one_line_and_leaves_what_was_there(tmp_path):
    checkpoint.save(tmp_path / "a.pt", {"w": torch.ones(2)})
    with full_disk(), pytest.raises(InputError, match=r"cannot write .*a\.pt: File too large"):
        checkpoint.save(tmp_path / "a.pt", {"w": torch.ones(100_000)})
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
    assert len(checkpoint.read(tmp_path / "a.pt")["w"]) == 2
    codes = encoding.LatentDataset(torch.zeros(1_000, 8, 8, dtype=torch.int32), 5, None, None, None, "0" * 64)
    with full_disk(), pytest.raises(InputError, match=r"cannot write .*codes\.safetensors: .*File too large"):
        encoding.write(tmp_path / "codes.safetensors", codes)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def without(*names):
    return {name: value for name, value in PRIOR.items() if name not in names}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        *((without(name), rf"a\.pt is no whole prior checkpoint: it lacks {name}$") for name in [*PRIOR][2:4]),
        *((without(name), rf"it lacks {name}$") for name in [*PRIOR][5:]),
        (PRIOR | {"vqgan": {"file": None}}, r"it lacks vqgan\.codes_sha256$"),
        (PRIOR | {"vqgan": "vqgan.pt"}, r"a\.pt: vqgan must be a dict, not 'vqgan.pt'"),
        (PRIOR | {"labels": "cat"}, r"a\.pt: labels must be a list or null, not 'cat'"),
        (PRIOR | {"weights": {"w": 1}}, r"a\.pt: weights: w must be a tensor, not 1"),
        (PRIOR | {"provenance": {"w": torch.ones(1)}}, r"a\.pt: provenance must be of what JSON has: .*Tensor"),
    ],
)
def test_a_field_that_is_missing_or_of_the_wrong_type_is_named(values, words, tmp_path):
    checkpoint.save(tmp_path / "a.pt", values)
    with pytest.raises(InputError, match=words):
        checkpoint.load(tmp_path / "a.pt", "prior")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, r"a\.pt is no whole vqgan checkpoint: it lacks config"),
        ({"multipliers": ["a"]}, r"a\.pt: config: multipliers = \['a'\]"),
        ({"image_size": 15}, r"a\.pt: config: image_size must be a multiple of f = 8, not 15"),
    ],
)
def test_a_vqgan_that_its_config_does_not_make_is_refused_by_file_and_field(config, words, tmp_path):
    values = {"kind": "vqgan", "format_version": 1, "weights": {}} | ({} if config is None else {"config": config})
    checkpoint.save(tmp_path / "a.pt", values)
    with pytest.raises(InputError, match=words):
        encoding.load_vqgan(tmp_path / "a.pt")


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


def cut(path):
    torch.save({"weights": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:200])


def old_and_cut(path):
    torch.save({"weights": torch.ones(100)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-20])


def archive(path, *names):
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "{}")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, "there is no checkpoint {}$"),
        (lambda path: path.mkdir(), "cannot read the checkpoint {}: Is a directory$"),
        (lambda path: path.write_text("hello"), "{} is no checkpoint: torch.save wrote no such file$"),
        (lambda path: path.write_bytes(b""), "{} is no checkpoint: torch.save wrote no such file$"),
        (lambda path: archive(path, "manifest.json"), "{} is no checkpoint: torch.save wrote no such file$"),
        (cut, r"the checkpoint {} is damaged or cut short \(File is not a zip file\)$"),
        (old_and_cut, "cannot read the checkpoint {}: unexpected EOF"),
        (lambda path: torch.save(torch.ones(3), path), "{} is no checkpoint: it holds a Tensor, not a dict$"),
        (
            lambda path: archive(path, "a/data.pkl", "a/constants.pkl"),
            "{} is a TorchScript archive, which is a program",
        ),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused_in_a_line_of_our_own(write, words, tmp_path):
    path = tmp_path / "a.png"
    write(path)
    with pytest.raises(InputError, match=words.format(r"\S*a\.png")) as told:
        checkpoint.read(path)
    assert "weights_only" not in str(told.value)


def test_weights_that_do_not_fit_are_named():
    layer = torch.nn.Linear(2, 3)
    good = layer.state_dict()
    with pytest.raises(InputError, match=r"^a.pt: missing weights bias; unexpected weights none$"):
        checkpoint.load_weights(layer, {"weight": good["weight"]}, "a.pt")
    with pytest.raises(InputError, match=r"^a.pt: missing weights none; unexpected weights extra$"):
        checkpoint.load_weights(layer, good | {"extra": torch.ones(1)}, "a.pt")
    with pytest.raises(InputError, match=r"weight is \[1, 2\]"):
        checkpoint.load_weights(layer, good | {"weight": torch.ones(1, 2)}, "a.pt")


def test_of_many_names_that_do_not_fit_a_few_are_told_and_the_rest_counted():
    layers = torch.nn.ModuleDict({f"layer{index}": torch.nn.Linear(1, 1) for index in range(5)})
    others = {f"other{index}": torch.ones(1) for index in reversed(range(6))}
    told = (
        "a.pt: missing weights layer0.bias, layer0.weight, layer1.bias, layer1.weight, layer2.bias, layer2.weight and "
        "4 more; unexpected weights other0, other1, other2, other3, other4, other5"
    )
    with pytest.raises(InputError) as refused:
        checkpoint.load_weights(layers, others, "a.pt")
    assert str(refused.value) == told
    assert checkpoint.listed([]) == "none"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(value):
    layer = torch.nn.Linear(2, 3)
    with pytest.raises(InputError, match=r"^a.pt: bias holds values that are no finite numbers$"):
        checkpoint.load_weights(layer, layer.state_dict() | {"bias": torch.tensor([0, value, 0])}, "a.pt")


@pytest.mark.parametrize(
    "tensor", [torch.ones(2).to_sparse(), torch.ones(2, device="meta"), torch.ones(2, dtype=torch.complex64)]
)
def test_tensors_that_are_not_plain_numbers_are_named(tensor, tmp_path):
    values = {"kind": "vqgan", "format_version": 1, "config": {}, "provenance": {}, "weights": {"a": tensor}}
    with pytest.raises(InputError, match=r"weights: a must be a tensor of plain numbers, all of them there$"):
        checkpoint.checked(values, tmp_path / "v.pt", "vqgan")
    with pytest.raises(InputError, match=r"weights: 1 is no name of a tensor$"):
        checkpoint.checked(values | {"weights": {1: torch.ones(1)}}, tmp_path / "v.pt", "vqgan")


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
        if kind in config.load_preset(preset).sections
    ],
)
def test_every_preset_describes_itself(preset, kind):
    described = describe(kind, preset)
    assert described["parameters"] > 0
    assert described["kind"] == kind


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"'erth'.*earth, .*toy"):
        describe("prior", "erth")
