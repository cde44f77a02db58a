"""The fixtures of the kube plugin, and the programs that were installed before the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from installed_programs import installed_programs

from aiinfra_lab.kube.pytest_plugin import cluster, cluster_options, kube_image, namespace
from aiinfra_lab.settings import settings

__all__ = ["cluster", "cluster_options", "kube_image", "namespace"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Show the installed programs to each test of this folder, before its needs are looked at."""
    with installed_programs():
        return (yield)  # type: ignore[no-any-return]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own, for this process and for the commands that it starts."""
    monkeypatch.setenv("AIINFRA_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    yield tmp_path / "home"
    settings.cache_clear()
