"""A file of codes: what `sundae-rt encode` wrote is read again, and anything else is refused in a line."""

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from safetensors.torch import save_file  # noqa: E402

from sundae_rt.errors import InputError  # noqa: E402
from sundae_rt.training import encoding  # noqa: E402

CODES, LABELS = torch.arange(24, dtype=torch.int32).view(4, 2, 3), torch.tensor([0, 1, 1, 0], dtype=torch.int32)


def test_what_was_written_is_read_again(tmp_path):
    dataset = encoding.LatentDataset(CODES, 24, ("land", "sea"), LABELS, "vqgan.pt", "0123", {"data": "a meadow"})
    encoding.write(tmp_path / "new" / "codes.safetensors", dataset)
    again = encoding.read(tmp_path / "new" / "codes.safetensors")
    assert torch.equal(again.codes, CODES) and torch.equal(again.label_ids, LABELS)
    assert (again.labels, again.vqgan_file, again.about) == (("land", "sea"), "vqgan.pt", {"data": "a meadow"})
    assert again.label_weights == (0.5, 0.5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"codes": CODES + 1}, "codes must be"),
        ({"codes": CODES.float()}, "codes must be"),
        ({"codes": torch.full((4, 2, 3), float("nan"))}, "codes must be"),
        ({"codes": CODES.to(torch.uint16)}, "codes must be"),
        ({"codes": CODES[0]}, "codes must be"),
        ({"labels": LABELS + 1}, r"labels must be \[4\] within 0..1"),
        ({"labels": LABELS - 1}, r"labels must be \[4\] within 0..1"),
        ({"labels": LABELS[:3]}, r"labels must be \[4\] within 0..1"),
        ({"labels": LABELS.float()}, r"labels must be \[4\] within 0..1"),
        ({"vocabulary": "24"}, "its vocabulary is '24'"),
        ({"vocabulary": 1e400}, "its vocabulary is inf"),
        ({"vqgan_file": 5}, "its vqgan_file is 5"),
        ({"codes_sha256": None}, "its codes_sha256 is None"),
        ({"names": ["land", "land"]}, "the label 'land' stands twice"),
        ({"names": ["land", 3]}, "a label must be a text"),
        ({"names": None}, "labels and their names must come together"),
    ],
)
def test_a_file_of_anything_else_is_refused_by_its_name(changes, told, tmp_path):
    tensors = {"codes": changes.get("codes", CODES), "labels": changes.get("labels", LABELS)}
    described = {"vocabulary": 24, "labels": ["land", "sea"], "vqgan_file": None, "codes_sha256": "0123"}
    described |= {name: value for name, value in changes.items() if name in described and name != "labels"}
    described |= {"labels": changes["names"]} if "names" in changes else {}
    path = tmp_path / "codes.safetensors"
    save_file(tensors, path, {"sundae-rt": json.dumps(described)})
    with pytest.raises(InputError, match=told) as refused:
        encoding.read(path)
    assert "codes.safetensors" in str(refused.value) and "\n" not in str(refused.value)
