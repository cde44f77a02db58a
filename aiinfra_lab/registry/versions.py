"""A version of a model as the registry knows it, and the words that name one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aiinfra_lab.errors import InputError
from aiinfra_lab.registry.manifest import NAME

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as Recorded

# Tags under which MLflow keeps what it has no field for.
OURS = "aiinfra."
KEY, DIGEST, FORMAT, METRICS, LINEAGE, PATH = (
    f"{OURS}{word}" for word in ("key", "digest", "format", "metrics", "lineage", "path")
)
# A key stands inside MLflow's filters, so it has no quotes.
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,199}")
_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}")


@dataclass(frozen=True)
class ModelVersion:
    """One registered version.

    Attributes
    ----------
    name : str
    version : int
        1, 2, ... as the registry counts.
    key : str
        What it was registered under.
    digest : str
        Of its ``model.json``, which names the digests of all its files.
    format : str
    run_id : str
        The run that made it, or that only carries its files.
    created : datetime
        UTC.
    aliases : tuple of str
        The aliases that point to it.
    metrics : dict
        Name → number, the manifest's and those given.
    lineage : dict
        The manifest's lineage and what was given.
    tags : dict
    """

    name: str
    version: int
    key: str
    digest: str
    format: str
    run_id: str
    created: datetime
    aliases: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """``digits/3``."""
        return f"{self.name}/{self.version}"


def from_recorded(recorded: Recorded, aliases: Mapping[str, Any]) -> ModelVersion:
    """MLflow's record as ours; ``aliases`` are the model's, alias → version."""
    tags, number = dict(recorded.tags), int(recorded.version)
    return ModelVersion(
        name=recorded.name,
        version=number,
        key=tags.get(KEY, ""),
        digest=tags.get(DIGEST, ""),
        format=tags.get(FORMAT, ""),
        run_id=recorded.run_id or "",
        created=datetime.fromtimestamp(recorded.creation_timestamp / 1000, UTC),
        aliases=tuple(sorted(a for a, version in aliases.items() if int(version) == number)),
        metrics=json.loads(tags.get(METRICS, "{}")),
        lineage=json.loads(tags.get(LINEAGE, "{}")),
        tags={name: value for name, value in tags.items() if not name.startswith(OURS)},
    )


def parse_reference(reference: str) -> tuple[str, int | str | None]:
    """``digits@champion``, ``digits/3`` or ``digits`` as name and alias, number or None.

    Raises
    ------
    InputError
        It is none of these.
    """
    name, at, alias = reference.partition("@")
    if at and re.fullmatch(NAME, name) and _ALIAS.fullmatch(alias):
        return name, alias
    name, slash, number = reference.partition("/")
    if re.fullmatch(NAME, name) and not at:
        if not slash:
            return name, None
        if re.fullmatch(r"[1-9][0-9]{0,8}", number):
            return name, int(number)
    raise InputError(
        "a model is named like digits@champion, digits/3 or digits", found=repr(reference)
    )


def checked_name(name: str) -> str:
    """``name`` if a model can have it."""
    if not re.fullmatch(NAME, name):
        raise InputError(
            "a model's name is letters, digits, dots, dashes and underscores", found=repr(name)
        )
    return name


def checked_key(key: str) -> str:
    """``key`` if a version can be registered under it."""
    if not _KEY.fullmatch(key):
        raise InputError(
            "a key is 1 to 200 letters, digits and ._:/+=@-, with a letter or digit first",
            found=repr(key),
            fix="A run's id or a digest of what made the model will do.",
        )
    return key


def checked_alias(alias: str) -> str:
    """``alias`` if a version can have it; MLflow keeps ``latest`` and ``v3`` for itself."""
    if not _ALIAS.fullmatch(alias) or alias.lower() == "latest" or re.fullmatch(r"[vV]\d+", alias):
        raise InputError(
            "an alias is a word like champion, and not latest or v3", found=repr(alias)
        )
    return alias
