"""The programs of Kubernetes that were installed before the tests, which have an empty cache."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from aiinfra_lab import needs
from aiinfra_lab.kube.programs import programs_folder
from aiinfra_lab.settings import settings

# To build them costs minutes. This module is read before the tests get a cache of their own, but
# perhaps after somebody has asked for settings.
settings.cache_clear()
_FOLDER = programs_folder()
settings.cache_clear()


@contextlib.contextmanager
def installed_programs() -> Iterator[None]:
    """Show them to what runs in the block, unless the user named others."""
    with pytest.MonkeyPatch.context() as patch:
        if "KUBEBUILDER_ASSETS" not in os.environ and _FOLDER.is_dir():
            patch.setenv("KUBEBUILDER_ASSETS", str(_FOLDER))
        needs.find.cache_clear()
        yield
    needs.find.cache_clear()
