"""The manifest is read strictly: every refusal names the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fakes import LABELS, absorbing, entry, labelled, manifest
from sundae_rt.errors import BundleError
from sundae_rt.manifest import GraphFile, Manifest
from sundae_rt.schedule import Schedule


def parse(**changes: Any) -> Manifest:
    return Manifest.from_json(json.dumps(manifest(**changes)))


def one_graph(**changes: Any) -> dict[str, Any]:
    return {"denoiser": {"fp32": {**entry("denoiser"), **changes}}}


def test_a_manifest_is_a_typed_view() -> None:
    read = parse(**labelled())
    assert read.name == "fake"
    assert read.image_size == (6, 8)
    assert read.latent_grid == (3, 4)
    assert read.labels == tuple(LABELS)
    assert read.default_schedule == Schedule(6, (1.0, 0.5), (1.0, 0.5), 3, 1.0)
    assert read.graphs["decoder"]["fp32"] == GraphFile("decoder.onnx", entry("decoder")["sha256"])


def test_what_is_written_reads_back() -> None:
    read = parse(**labelled(checks={"max_difference": 1e-5}, provenance={"data": "Blaue Kugel"}))
    assert Manifest.from_json(read.to_json()) == read
    assert list(json.loads(read.to_json())) == list(manifest())


def test_optional_fields_may_be_left_out() -> None:
    read = parse(
        image_size=...,
        labels=...,
        label_weights=...,
        default_schedule=...,
        checks=...,
        provenance=...,
        graphs=one_graph(),
    )
    assert read.image_size is None
    assert read.default_schedule == Schedule()


def test_an_older_manifest_says_nothing_of_later_settings() -> None:
    older = {"steps": 6, "temperature": [1.0, 0.5], "proportion": [1.0, 0.5], "min_steps": 3, "guidance": 1.0}
    for changes in ({}, labelled()):
        read = parse(**changes, default_schedule=older, null_label=...)
        assert read.default_schedule == Schedule(6, (1.0, 0.5), (1.0, 0.5), 3, 1.0, "proposal", "uniform")
        assert read.can_guide == (read.labels is not None)


def test_guidance_needs_labels_and_a_null_label() -> None:
    assert parse(**labelled(null_label=True)).can_guide
    assert not parse(**labelled(null_label=False)).can_guide
    assert not parse(null_label=False).can_guide


def test_a_family_says_only_its_own_settings() -> None:
    read = parse(**absorbing())
    assert (read.family, read.default_schedule.steps, read.default_schedule.temperature) == ("absorbing", 6, (1.0, 0.5))
    assert list(json.loads(read.to_json())["default_schedule"]) == ["steps", "temperature", "guidance"]
    assert Manifest.from_json(read.to_json()) == read
    made = Manifest("a", (3, 4), 9, read.graphs, (6, 8), default_schedule=Schedule(steps=50), family="absorbing")
    assert Manifest.from_json(made.to_json()) == made
    short = absorbing(default_schedule={"steps": 2, "temperature": [1, 1], "guidance": 1})
    assert parse(**short).default_schedule.steps == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format_version 2 is newer"),
        ({"format_version": 99, "family": "new", "shape": 1}, "format_version 99 is newer"),
        ({"format_version": True}, "format_version must be a whole number"),
        ({"format_version": ...}, "format_version"),
        ({"family": "autoregressive"}, "family 'autoregressive' is unknown .*, which knows sundae, absorbing"),
        ({"family": []}, r"family \[\] is unknown"),
        ({"null_label": True}, "null_label must be false or null without labels"),
        (labelled(null_label="yes"), "null_label must be one of True, False, not 'yes'"),
        (labelled(null_label=1), "null_label must be one of True, False, not 1"),
        ({"latent_gird": [1, 1]}, "unknown key 'latent_gird'"),
        ({"vocabulary": ...}, "lacks 'vocabulary'"),
        ({"vocabulary": 0}, "vocabulary must be a whole number from 1"),
        ({"vocabulary": 1.5}, "vocabulary"),
        ({"vocabulary": 64, "codebook_size": 63}, "codebook_size must be at least vocabulary, 64, not 63"),
        ({"codebook_size": "many"}, "codebook_size must be a whole number"),
        ({"name": "../earth"}, "name must be a plain name"),
        ({"latent_grid": [4]}, r"latent_grid must be \[height, width\]"),
        ({"latent_grid": [4, -4]}, "latent_grid"),
        ({"latent_grid": [8193, 1]}, "latent_grid must be a whole number from 1 to 8192, not 8193"),
        ({"image_size": [7, 8]}, "image_size .* multiple of latent_grid"),
        ({"image_size": None}, "image_size is null, but the bundle has the graph decoder"),
        ({"labels": "ocean"}, "labels must be a list of strings"),
        ({"labels": ["a", "a"]}, "labels must be different"),
        ({"labels": []}, "labels must be"),
        ({"labels": ["sea\x1b[2J"]}, "labels must be a list of strings on one line each"),
        ({"label_weights": [1.0]}, "label_weights must have one number for each"),
        (labelled(label_weights=[0.5, 0.5]), "label_weights must have one number for each"),
        (labelled(label_weights=[0.5, 0.5, 0.5]), "label_weights must sum to 1, not 1.5"),
        (labelled(label_weights=[-1, 1, 1]), "label_weights must be a finite number"),
        ({"default_schedule": {"steps": 5}}, "default_schedule lacks 'temperature'"),
        ({"default_schedule": {**manifest()["default_schedule"], "steps": 0}}, "default_schedule: steps must be"),
        (
            {"default_schedule": {**manifest()["default_schedule"], "guidance": 2.0}},
            "guidance must be 1 without labels",
        ),
        (
            labelled(null_label=False, default_schedule={**manifest()["default_schedule"], "guidance": 2.0}),
            "guidance must be 1 without a null label, not 2",
        ),
        ({"default_schedule": {**manifest()["default_schedule"], "stop": "early"}}, "stop must be one of"),
        ({"default_schedule": {**manifest()["default_schedule"], "order": None}}, "order must have a value"),
        (
            {"default_schedule": {**manifest()["default_schedule"], "min_steps": 7}},
            r"min_steps must be at most steps \(6\), not 7",
        ),
        (absorbing(default_schedule=manifest()["default_schedule"]), "unknown key 'proportion'"),
        (absorbing(default_schedule={"steps": 5}), "default_schedule lacks 'temperature'"),
        ({"graphs": {}}, "graphs must hold"),
        ({"graphs": {"denoser": {}}}, "graphs has the unknown key 'denoser'"),
        ({"graphs": {"denoiser": {}}}, "graphs.denoiser must hold"),
        ({"graphs": one_graph(file="../outside")}, "graphs.denoiser.fp32.file must be a plain name"),
        ({"graphs": one_graph(file="/etc/passwd")}, "graphs.denoiser.fp32.file must be a plain name"),
        ({"graphs": one_graph(file="a\\b")}, "graphs.denoiser.fp32.file must be a plain name"),
        ({"graphs": one_graph(file=".hidden")}, "graphs.denoiser.fp32.file must be a plain name"),
        ({"graphs": one_graph(sha256="abc")}, "graphs.denoiser.fp32.sha256 must be 64"),
        ({"graphs": one_graph(requires="cuda")}, "graphs.denoiser.fp32.requires must be a list"),
        ({"checks": []}, "checks must be a JSON object"),
    ],
)
def test_a_bad_field_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        parse(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", b"\xff", '{"a": 1, "a": 2}', '{"vocabulary": NaN}', "[" * 100_000]
)
def test_what_is_no_manifest_is_refused(text: str | bytes) -> None:
    with pytest.raises(BundleError, match=r"^manifest: ") as caught:
        Manifest.from_json(text)
    assert "\n" not in str(caught.value)
