"""The registry that the settings name, and its verbs as functions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

from aiinfra_lab.registry.models import Registry
from aiinfra_lab.registry.tracking import Run
from aiinfra_lab.registry.versions import ModelVersion


def open_registry() -> Registry:
    """The server of ``AIINFRA_MLFLOW_URL`` if it is set, else SQLite under ``home``.

    New files go to ``AIINFRA_ARTIFACTS_URL``, in the S3 of ``AIINFRA_S3_URL`` or of boto3's own
    variables. Nothing is read or written before the first use.
    """
    from aiinfra_lab.settings import settings

    chosen = settings()
    if chosen.s3_url:
        from aiinfra_lab.engines.s3_client import parse_access

        for name, value in parse_access(chosen.s3_url).environment().items():
            os.environ.setdefault(name, value)  # MLflow takes them from nowhere else
    return _opened(
        chosen.home / "registry", chosen.cache / "bundles", chosen.mlflow_url, chosen.artifacts_url
    )


@cache
def _opened(root: Path, kept: Path, url: str | None, artifacts: str | None) -> Registry:
    return Registry(root, kept, url, artifacts)


def register(
    bundle: str | Path,
    *,
    name: str | None = None,
    key: str,
    lineage: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
) -> ModelVersion:
    """As ``Registry.register``, on the registry that the settings name."""
    return open_registry().register(
        bundle, name=name, key=key, lineage=lineage, metrics=metrics, tags=tags
    )


def resolve(reference: str) -> Path:
    """As ``Registry.resolve``, on the registry that the settings name."""
    return open_registry().resolve(reference)


def describe(reference: str) -> ModelVersion:
    """As ``Registry.describe``, on the registry that the settings name."""
    return open_registry().describe(reference)


def versions(name: str) -> list[ModelVersion]:
    """As ``Registry.versions``, on the registry that the settings name."""
    return open_registry().versions(name)


def promote(name: str, version: int, alias: str = "champion") -> ModelVersion:
    """As ``Registry.promote``, on the registry that the settings name."""
    return open_registry().promote(name, version, alias)


def rollback(name: str, alias: str = "champion") -> ModelVersion:
    """As ``Registry.rollback``, on the registry that the settings name."""
    return open_registry().rollback(name, alias)


def flush() -> list[ModelVersion]:
    """As ``Registry.flush``, on the registry that the settings name."""
    return open_registry().flush()


def run(
    experiment: str,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> AbstractContextManager[Run]:
    """As ``Runs.run``, on the registry that the settings name."""
    return open_registry().runs.run(experiment, params, tags)
