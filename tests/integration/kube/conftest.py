"""The fixtures of the kube plugin, and the programs that were installed before the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiinfra_lab import needs
from aiinfra_lab.kube.programs import programs_folder
from aiinfra_lab.kube.pytest_plugin import cluster, cluster_options, namespace
from aiinfra_lab.settings import settings

__all__ = ["cluster", "cluster_options", "namespace"]

# The tests have an empty cache; the programs, which cost minutes, come from the user's. This
# module is read before that folder is changed, but perhaps after a test has asked for settings.
settings.cache_clear()
_INSTALLED = programs_folder()
settings.cache_clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Show the installed programs to each test of this folder, before its needs are looked at."""
    with pytest.MonkeyPatch.context() as patch:
        if "KUBEBUILDER_ASSETS" not in os.environ and _INSTALLED.is_dir():
            patch.setenv("KUBEBUILDER_ASSETS", str(_INSTALLED))
        needs.find.cache_clear()
        result = yield
    needs.find.cache_clear()
    return result  # type: ignore[return-value]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own, for this process and for the commands that it starts."""
    monkeypatch.setenv("AIINFRA_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    yield tmp_path / "home"
    settings.cache_clear()
