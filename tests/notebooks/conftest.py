"""The programs of Kubernetes that were installed before, for the notebooks that need them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from aiinfra_lab import needs
from aiinfra_lab.kube.programs import programs_folder
from aiinfra_lab.settings import settings

# Asked for before the tests get a cache of their own: to build these programs takes minutes.
settings.cache_clear()
_INSTALLED = programs_folder()
settings.cache_clear()


@pytest.fixture(scope="session", autouse=True)
def _installed_programs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if "KUBEBUILDER_ASSETS" not in os.environ and _INSTALLED.is_dir():
            patch.setenv("KUBEBUILDER_ASSETS", str(_INSTALLED))
        needs.find.cache_clear()
        yield
    needs.find.cache_clear()
