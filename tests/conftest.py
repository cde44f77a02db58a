"""What every test shares: needs that skip or fail by name, and folders of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose needs are not met, or fail it where AIINFRA_REQUIRE names one of them."""
    from aiinfra_lab import needs

    wanted = [name for mark in item.iter_markers("needs") for name in mark.args]
    if not wanted:
        return
    verdict, sentence = needs.verdict(wanted)
    if verdict == "skip":
        pytest.skip(sentence)
    if verdict == "fail":
        pytest.fail(sentence, pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def _folders_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep whatever a test writes out of the user's home and out of the checkout."""
    from aiinfra_lab.settings import settings
    from aiinfra_lab.telemetry import silence_telemetry

    silence_telemetry()
    base = tmp_path_factory.mktemp("aiinfra")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "CACHE"):
            if f"AIINFRA_{name}" not in os.environ:
                patch.setenv(f"AIINFRA_{name}", str(base / name.lower()))
        settings.cache_clear()
        yield
    settings.cache_clear()


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT
