"""Settings travel in the PNG file, and only well-formed ones are believed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sundae_rt.errors import InputError
from sundae_rt.provenance import KEY, Provenance, read
from sundae_rt.schedule import Schedule

MADE = Provenance(
    command="generate",
    version="0.1.0",
    bundle="toy",
    fingerprint="0f" * 32,
    variant="fp32",
    backend="cpu",
    index=3,
    seed=2**64 - 1,
    schedule=Schedule(7, (1.0, 0.25), (1.0, 0.5), 4, 1.5, "published", "confidence", (2.0, 0.5)),
    label="Küste",
)


def written(folder: Path, made: Provenance = MADE) -> Path:
    Image.new("RGB", (8, 8)).save(folder / "a.png", pnginfo=made.png_info())
    return folder / "a.png"


def with_text(folder: Path, text: str) -> Path:
    info = PngInfo()
    info.add_text(KEY, text)
    Image.new("RGB", (8, 8)).save(folder / "a.png", pnginfo=info)
    return folder / "a.png"


def fields(folder: Path) -> dict[str, Any]:
    with Image.open(written(folder)) as image:
        return dict(json.loads(image.info[KEY]))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    assert read(written(tmp_path)) == MADE


def test_an_inpainting_names_its_image_and_mask(tmp_path: Path) -> None:
    made = Provenance("inpaint", "1", "toy", "0f" * 32, "fp32", "cpu", 0, 0, Schedule(), None, "1a" * 32, "2b" * 32)
    assert read(written(tmp_path, made)) == made


def test_the_text_is_one_flat_json_object(tmp_path: Path) -> None:
    assert fields(tmp_path) == {
        "command": "generate",
        "version": "0.1.0",
        "bundle": "toy",
        "fingerprint": "0f" * 32,
        "variant": "fp32",
        "backend": "cpu",
        "index": 3,
        "seed": 2**64 - 1,
        "steps": 7,
        "temperature": [1.0, 0.25],
        "proportion": [1.0, 0.5],
        "min_steps": 4,
        "guidance": 1.5,
        "label": "Küste",
        "image_sha256": None,
        "mask_sha256": None,
        "mask": None,
        "family": "sundae",
        "stop": "published",
        "order": "confidence",
        "choice_temperature": [2.0, 0.5],
    }


def test_what_version_0_1_0_wrote_is_read(tmp_path: Path) -> None:
    older = fields(tmp_path)
    for later in ("mask", "family", "stop", "order", "choice_temperature"):
        del older[later]
    made = read(with_text(tmp_path, json.dumps(older)))
    assert (made.family, made.mask) == ("sundae", None)
    assert made.schedule == Schedule(7, (1.0, 0.25), (1.0, 0.5), 4, 1.5, "proposal", "uniform")


def test_a_proportion_may_be_a_word(tmp_path: Path) -> None:
    made = replace(MADE, schedule=MADE.schedule.with_changes(proportion="ancestral"))
    assert read(written(tmp_path, made)) == made
    text = fields(tmp_path) | {"proportion": "ancestral"}
    assert read(with_text(tmp_path, json.dumps(text))) == made


def test_a_family_writes_and_reads_only_its_own_settings(tmp_path: Path) -> None:
    made = replace(MADE, schedule=Schedule(steps=3, min_steps=3), family="absorbing")
    assert made.settings == {"steps": 3, "temperature": (1.0, 0.7), "guidance": 1.0}
    assert read(written(tmp_path, made)) == made
    with Image.open(written(tmp_path, made)) as image:
        text = json.loads(image.info[KEY])
    with pytest.raises(InputError, match="has the unknown field 'proportion'"):
        read(with_text(tmp_path, json.dumps(text | {"proportion": [1, 1]})))


def test_an_inpainting_without_a_mask_file_names_the_kind_of_mask(tmp_path: Path) -> None:
    made = replace(MADE, command="inpaint", image_sha256="1a" * 32, mask="grid:size=2")
    assert read(written(tmp_path, made)) == made


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_picture_without_the_text_is_refused(suffix: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / f"a.{suffix}")
    with pytest.raises(InputError, match=rf"a\.{suffix} does not say how it was made"):
        read(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        "__import__('os').getcwd()",
        "[" * 50_000,
        '"' + "x" * 100_000 + '"',
        '{"seed": NaN}',
    ],
    ids=range(9),
)
def test_malformed_text_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^[^\n]*a\.png: its text 'sundae-rt' is malformed: [^\n]{1,200}$"):
        read(with_text(tmp_path, text))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("command", "train"),
        ("version", 1),
        ("bundle", None),
        ("fingerprint", "0F" * 32),
        ("fingerprint", "../etc"),
        ("fingerprint", None),
        ("index", -1),
        ("index", True),
        ("index", 2**64),
        ("seed", 2**64),
        ("seed", 1.0),
        ("seed", "1"),
        ("steps", 0),
        ("temperature", [1.0, -0.5]),
        ("temperature", [1.0]),
        ("proportion", [0.0, 1.0]),
        ("min_steps", 8),
        ("guidance", "1"),
        ("guidance", None),
        ("stop", "never"),
        ("order", 1),
        ("family", "autoregressive"),
        ("family", None),
        ("mask", 3),
        ("label", 3),
        ("image_sha256", "short"),
    ],
)
def test_a_field_of_another_kind_or_out_of_range_is_refused_by_name(field: str, value: Any, tmp_path: Path) -> None:
    changed = fields(tmp_path) | {field: value}
    with pytest.raises(InputError, match=f"malformed: {field} "):
        read(with_text(tmp_path, json.dumps(changed)))


def test_missing_and_unknown_fields_are_refused_by_name(tmp_path: Path) -> None:
    known = fields(tmp_path)
    with pytest.raises(InputError, match="has the unknown field 'extra'"):
        read(with_text(tmp_path, json.dumps(known | {"extra": 1})))
    del known["seed"]
    with pytest.raises(InputError, match="lacks 'seed'"):
        read(with_text(tmp_path, json.dumps(known)))
