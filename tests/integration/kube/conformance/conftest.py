"""Starts the selected cases side by side, on one event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from aiinfra_lab.kube.kind.engine import Engine
from aiinfra_lab.kube.kind.node_image.recipe import Recipe
from aiinfra_lab.kube.pytest_plugin import cluster

from .api import LIMIT_S, Api
from .catalogue import Case, lacking
from .namespace import WATCHED, Shown

# Imported here too, so that these tests have a cluster of their own: the other one has no nodes.
__all__ = ["cluster"]


@pytest.fixture(scope="session")
def cluster_options() -> dict[str, Any]:
    """Two nodes, so that the pods of a Job meet across them, and GPUs whether there are any."""
    return {"nodes": 2, "gpus": 2}


@pytest.fixture(scope="session")
def kube_image(request: pytest.FixtureRequest) -> str | None:
    """What the cases' pods are of: --kube-image, or what `aiinfra cluster python-image` has made.

    None: the public images that the cases name, which the nodes pull, or which nobody looks at.
    """
    option = request.config.getoption
    wished: str | None = option("--kube-image", None)
    if wished is not None or option("--kube-provider", "local") != "kind":
        return wished
    made = Recipe.find().python_tag
    return made if Engine.find().has_image(made) else None


@pytest.fixture(scope="session")
def verdicts(
    request: pytest.FixtureRequest,
    cluster: Any,
    kube_image: str | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Future[float]]]:
    """Of each selected case that can run here, by its name: how long it took, or why it failed."""
    # Tests of other folders are among the items, and may have fixtures of the same names.
    parameters = [getattr(item, "callspec", None) for item in request.session.items]
    found = [call.params.get("case") for call in parameters if call is not None]
    selected = [case for case in found if isinstance(case, Case)]
    cases = [case for case in selected if not lacking(case, cluster.provider)]
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="conformance")
    thread.start()
    side_by_side = SideBySide(cluster, tmp_path_factory.mktemp("conformance"), kube_image)
    try:
        yield asyncio.run_coroutine_threadsafe(side_by_side.start(cases), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(side_by_side.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class SideBySide:
    """The tasks of all cases."""

    def __init__(self, cluster: Any, scratch: Path, image: str | None) -> None:
        self._cluster, self._scratch, self._image = cluster, scratch, image
        self._tasks: list[asyncio.Task[None]] = []
        self._api: Api | None = None

    async def start(self, cases: list[Case]) -> dict[str, Future[float]]:
        """Start everything; returns at once, with what each case will say."""
        self._api = await Api.connect(self._cluster.kubeconfig)
        shown = Shown(self._api, self._cluster.provider, self._scratch, self._image)
        synced = [asyncio.Event() for _ in WATCHED]
        for kind, event in zip(WATCHED, synced, strict=True):
            self._tasks.append(asyncio.create_task(shown.watch(kind, event)))
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*(event.wait() for event in synced))
        verdicts = {case.name: Future[float]() for case in cases}
        for case in cases:
            self._tasks.append(asyncio.create_task(self._run(case, shown, verdicts[case.name])))
        return verdicts

    async def stop(self) -> None:
        """End what still goes on, which is nothing unless the session was cut short."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._api is not None:
            await self._api.close()

    async def _run(self, case: Case, shown: Shown, verdict: Future[float]) -> None:
        namespace, begin = None, time.monotonic()
        try:
            namespace = await shown.open()
            await case.body(namespace)
        except BaseException as error:
            verdict.set_exception(error)
            if isinstance(error, asyncio.CancelledError):
                raise
        else:
            verdict.set_result(time.monotonic() - begin)
        finally:
            if namespace is not None:
                await asyncio.shield(shown.close(namespace.name))
