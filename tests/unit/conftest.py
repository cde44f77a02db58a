"""A course folder of its own for the tests that read one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aiinfra_lab.course import layout
from aiinfra_lab.course.layout import Course
from aiinfra_lab.settings import settings


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Course]:
    """An empty course that ``Course.find`` finds."""
    root = tmp_path / "course"
    root.mkdir()
    monkeypatch.setenv("AIINFRA_COURSE", str(root))
    settings.cache_clear()
    layout._read_json.cache_clear()
    yield Course(root)
    settings.cache_clear()
    layout._read_json.cache_clear()
