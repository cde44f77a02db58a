"""An alias of a model, and the versions that had it before.

MLflow keeps the alias; what it pointed to before is a tag of the model. On a move the tag is
written first, and on the way back last: a crash in between repeats an entry and loses none, and
a repeated one is passed over.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from aiinfra_lab.registry.versions import OURS

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

FORMER = f"{OURS}former."  # + alias
REMEMBERED = 50  # former versions of an alias


def point(client: MlflowClient, name: str, alias: str, version: int) -> None:
    """Let ``alias`` point to ``version`` and remember what it pointed to."""
    before = client.get_registered_model(name).aliases.get(alias)
    if before is not None and int(before) == version:
        return
    if before is not None:
        remember(client, name, alias, [*former(client, name, alias), int(before)])
    client.set_registered_model_alias(name, alias, str(version))


def former(client: MlflowClient, name: str, alias: str) -> list[int]:
    """The versions that had ``alias`` before, the oldest first."""
    return list(json.loads(client.get_registered_model(name).tags.get(FORMER + alias, "[]")))


def remember(client: MlflowClient, name: str, alias: str, numbers: list[int]) -> None:
    """Write down the versions that had ``alias`` before."""
    client.set_registered_model_tag(name, FORMER + alias, json.dumps(numbers[-REMEMBERED:]))
