"""The JSON Schema of ``results.json``, for readers that are not written in Python.

It is generated from the models in ``results`` and committed beside them, so that it ships with the
package and a change of it is seen in a review. ``aiinfra grade --schema`` prints it.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from aiinfra_lab.grading.results import SCHEMA, BatchResult

FILE = "results.schema.json"
# A name and no address: the schema is found in the package, and loads nothing.
IDENTIFIER = f"urn:aiinfra-lab:grading:results:{SCHEMA}"


class _Generator(GenerateJsonSchema):
    """Without titles that only repeat a field's name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def results_schema() -> dict[str, Any]:
    """What every ``results.json`` of this version satisfies (JSON Schema 2020-12).

    Examples
    --------
    >>> results_schema()["$id"]
    'urn:aiinfra-lab:grading:results:1'
    """
    schema = BatchResult.model_json_schema(mode="serialization", schema_generator=_Generator)
    head = {"$schema": _Generator.schema_dialect, "$id": IDENTIFIER}
    return {**head, **schema, "title": "results.json of aiinfra grade"}


def schema_text() -> str:
    """The schema as it is committed."""
    return json.dumps(results_schema(), indent=2, ensure_ascii=False) + "\n"
