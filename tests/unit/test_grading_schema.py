"""The published schema of results.json: current, complete, and strict."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from made_batches import absent, batch, crowd, mark, missed, submission

import aiinfra_lab.grading.schema as schema_module
from aiinfra_lab.cli.main import run
from aiinfra_lab.grading.results import SCHEMA
from aiinfra_lab.grading.schema import FILE, results_schema, schema_text

SHIPPED = Path(schema_module.__file__).with_name(FILE)


@pytest.fixture(scope="module")
def validator() -> Any:
    """A validator of the file that ships."""
    schema = json.loads(SHIPPED.read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def written(result: Any) -> Any:
    return json.loads(json.dumps(result.model_dump(mode="json", by_alias=True)))


def test_the_file_is_what_the_models_give() -> None:
    # To make it anew: aiinfra grade --schema > aiinfra_lab/grading/results.schema.json
    assert SHIPPED.read_text("utf-8") == schema_text()


def test_it_names_its_version_and_no_host() -> None:
    assert results_schema()["$id"] == f"urn:aiinfra-lab:grading:results:{SCHEMA}"
    assert results_schema()["properties"]["schema"]["const"] == SCHEMA


def test_every_sort_of_row_is_valid(validator: Any) -> None:
    rows = [
        submission("a", mark("window"), missed("probes"), mark("essay", "pending")),
        submission("b", mark("window"), same_as="a", seconds=0, cpu_s=0),
        absent("c"),
        absent("d", "unreadable"),
    ]
    for result in (batch(*rows), crowd(40), batch()):
        validator.validate(written(result))


def broken(change: Any) -> Any:
    document = written(batch(submission("a", missed("probes"))))
    change(document, document["submissions"][0])
    return document


@pytest.mark.parametrize(
    "change",
    [
        lambda whole, row: whole.update(schema=2),
        lambda whole, row: whole.update(more=1),
        lambda whole, row: whole.pop("walls"),
        lambda whole, row: row.pop("cpu_s"),
        lambda whole, row: row.update(points="5"),
        lambda whole, row: row.update(points=-1),
        lambda whole, row: row.update(state="lost"),
        lambda whole, row: row["exercises"][0].update(status="maybe"),
        lambda whole, row: row["exercises"][0]["differences"][0].pop("hint"),
    ],
)
def test_what_is_no_result_is_refused(validator: Any, change: Any) -> None:
    validator.validate(copy.deepcopy(broken(lambda *_: None)))
    assert not validator.is_valid(broken(change))


def test_the_command_prints_it_and_asks_for_nothing_else(capsys: pytest.CaptureFixture) -> None:
    assert run(["grade", "--schema"]) == 0
    assert capsys.readouterr().out == schema_text()
