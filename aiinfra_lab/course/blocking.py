"""Modules that are a lab's answer, made impossible to import in the kernel that checks it.

This says what is not meant to be used; it is no wall. The wall is the grader's sandbox, in which
the files are not there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType


class _Blocker(MetaPathFinder):
    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = tuple(modules)

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> None:
        if any(name == module or name.startswith(f"{module}.") for module in self._modules):
            raise ImportError(f"{name} is the answer of this lab: write it yourself", name=name)


def block(modules: Sequence[str]) -> None:
    """Refuse the import of ``modules`` and everything in them from now on."""
    sys.meta_path.insert(0, _Blocker(modules))
