"""The verdicts of the cases, one test each."""

from __future__ import annotations

from concurrent.futures import Future
from importlib import import_module
from typing import Any

import pytest

from .catalogue import CASES, Case, lacking

_SUBJECTS = (
    "jobs",
    "pods",
    "configuration",
    "volumes",
    "failing",
    "probes",
    "deletion",
    "logs",
    "network",
    "nodes",
    "walls",
    "resources",
    "clients",
)
for subject in _SUBJECTS:
    import_module(f".{subject}", __package__)

pytestmark = pytest.mark.needs("kube", "kubernetes", "kubernetes-asyncio")


def _parameter(case: Case) -> Any:
    marks = [pytest.mark.needs(*case.needs)] if case.needs else []
    return pytest.param(case, id=case.name, marks=marks)


@pytest.mark.parametrize("case", [_parameter(case) for case in CASES.values()])
def test_the_cluster(case: Case, cluster: Any, verdicts: dict[str, Future[float]]) -> None:
    if reason := lacking(case, cluster.provider):
        pytest.skip(reason)
    # pytest -rP shows it; the test's own duration is what it still had to wait.
    print(f"{verdicts[case.name].result():.2f} s {case.name}")
