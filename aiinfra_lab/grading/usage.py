"""A pytest plugin that writes what its process and the kernels that it waited for have used.

Loaded into the child that runs a notebook (``-p aiinfra_lab.grading.usage``): the system counts a
child's processor time with its parent's once that has waited for it, so the sum is exact there, and
from outside children that end side by side cannot be told apart.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

OPTION = "--aiinfra-usage"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, metavar="FILE", help="write the processor seconds into FILE")


def pytest_unconfigure(config: pytest.Config) -> None:
    # After the last notebook's teardown, in which its kernel is waited for.
    if path := config.getoption(OPTION):
        Path(path).write_text(f"{sum(os.times()[:4]):.3f}", encoding="ascii")
