"""What notebooks need that takes minutes to make."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from installed_programs import installed_programs


@pytest.fixture(scope="session", autouse=True)
def _installed_programs() -> Iterator[None]:
    with installed_programs():
        yield
