"""pytest fixtures on a real control plane: one a session, and a namespace for each test.

Load it with ``-p aiinfra_lab.kube.pytest_plugin``, or import all its fixtures in a conftest.py. It
is not registered for everybody: ``cluster`` and ``namespace`` are names that projects have already.

    def test_a_config_map(cluster, namespace):
        cluster.client("CoreV1Api").create_namespaced_config_map(namespace, {...})

``--kube-provider existing --kube-context NAME`` runs the same tests on another cluster.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from aiinfra_lab.errors import ProcessError

_numbers = itertools.count(1)
_ACCOUNT_S = 60.0  # for the controllers to make a namespace's service account
_LOOK_S = 0.02


class RunningCluster(Protocol):
    """What a test gets: ``LocalCluster`` or ``Access``."""

    @property
    def kubeconfig(self) -> Path:
        """Where clients find it."""

    @property
    def provider(self) -> str:
        """``local`` and the like."""

    def client(self, api: str = "CoreV1Api") -> object:
        """A client of the ``kubernetes`` package."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, where this module is loaded as a plugin."""
    group = parser.getgroup("kube", "tests on Kubernetes")
    group.addoption("--kube-provider", default="local", help="local (default), kind, existing")
    group.addoption("--kube-context", default=None, help="a context, for --kube-provider existing")
    group.addoption("--kube-workers", default=None, type=int, help="nodes beside the first")
    group.addoption("--kube-node-image", default=None, help="an image, for --kube-provider kind")
    group.addoption(
        "--kube-load",
        action="append",
        default=[],
        metavar="IMAGE",
        help="a local image that pods are to find in the nodes; may be given again",
    )
    group.addoption(
        "--kube-image",
        default=None,
        metavar="IMAGE",
        help="what the tests' pods are of; loaded too, where the nodes are containers",
    )


@pytest.fixture(scope="session")
def cluster_options() -> dict[str, Any]:
    """What ``LocalCluster`` is told; to be overridden, by ``{"gpus": 2}`` or the like.

    Of these a cluster of kind gets the number of nodes and the GPUs.
    """
    return {}


@pytest.fixture(scope="session")
def kube_image(request: pytest.FixtureRequest) -> str | None:
    """The image of ``--kube-image``, which the nodes have; None where none is named."""
    wished: str | None = request.config.getoption("--kube-image", None)
    return wished


@pytest.fixture(scope="session")
def cluster(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    cluster_options: dict[str, Any],
    kube_image: str | None,
) -> Iterator[RunningCluster]:
    """A cluster for all tests of this session (with xdist: of this worker)."""
    option = request.config.getoption
    provider, workers = option("--kube-provider", "local"), option("--kube-workers", None)
    name = f"test-{os.getpid()}"
    if provider == "local":
        from aiinfra_lab.kube.local import LocalCluster

        folder = tmp_path_factory.mktemp("kube") / name
        nodes = {} if workers is None else {"nodes": 1 + workers}
        with LocalCluster(name, folder=folder, **{**cluster_options, **nodes}) as made:
            yield made
        return
    from aiinfra_lab.kube.provider import Wishes, get_provider

    found = get_provider(provider)
    images = [*option("--kube-load", []), *([kube_image] if kube_image else [])]
    wishes = Wishes(
        context=option("--kube-context", None),
        node_image=option("--kube-node-image", None),
        workers=_workers(found.meets, workers, cluster_options),
        gpus=cluster_options.get("gpus") if "gpus" in found.meets else None,
        images=images if "images" in found.meets else option("--kube-load", []),
    )
    access = found.up(name, wishes)
    try:
        yield access
    finally:
        found.down(name)


def _workers(meets: Container[str], asked: int | None, options: dict[str, Any]) -> int:
    """As many as asked for, which a provider may refuse; else what the tests want, if it can."""
    if asked is not None:
        return asked
    return max(0, int(options.get("nodes", 1)) - 1) if "workers" in meets else 0


@pytest.fixture
def namespace(cluster: RunningCluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace for one test, ready for pods, deleted after it without waiting for that."""
    with new_namespace(cluster) as name:
        yield name


@contextlib.contextmanager
def new_namespace(cluster: RunningCluster) -> Iterator[str]:
    """Make a namespace and wait until pods are admitted to it; delete it afterwards."""
    from aiinfra_lab.kube.clients import client, kubernetes

    name = f"t-{os.getpid()}-{next(_numbers)}"
    api = client(cluster.kubeconfig)
    refused = kubernetes().client.ApiException
    api.create_namespace({"metadata": {"name": name, "labels": {"aiinfra": "test"}}})
    try:
        last = time.monotonic() + _ACCOUNT_S
        while True:
            with contextlib.suppress(refused):
                api.read_namespaced_service_account("default", name)
                break
            if time.monotonic() > last:
                raise ProcessError(f"namespace {name} got no service account; do controllers run?")
            time.sleep(_LOOK_S)
        yield name
    finally:
        with contextlib.suppress(refused):
            api.delete_namespace(name)
        api.api_client.close()
