"""Writes one pod's status, and deletes the pod once it was asked for and nothing is left of it.

What is to be written is asked for when a write can go out, so that states that come quickly one
after the other cost one write, and a state that came while the API server was away costs none.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from aiinfra_lab.kube.node.api import ApiAway, ApiError

Object = dict[str, Any]

_FIRST_RETRY_S, _LAST_RETRY_S = 0.1, 5.0

_log = logging.getLogger(__name__)


class Subject(Protocol):
    """Whose status it is: a pod's worker."""

    pod: Object

    def patch(self) -> Object | None:
        """What is to be written now; None: all is written."""

    def deletable(self) -> bool:
        """Whether the API server may forget the pod."""

    def update(self, pod: Object) -> None:
        """Take the pod as the API server has it now."""


class Publisher:
    """One pod's writes, one at a time.

    Parameters
    ----------
    api : Api
        The API server.
    subject : Subject
        Whose status is written.
    slots : asyncio.Semaphore
        Shared by the pods of a node: how many write at once.
    """

    def __init__(self, api: Any, subject: Subject, slots: asyncio.Semaphore) -> None:
        self._api, self._subject, self._slots = api, subject, slots
        self._again = self._deleted = self._closed = False
        self._task: asyncio.Task[None] | None = None

    def publish(self) -> None:
        """Write what there is to write, soon; costs nothing where there is nothing."""
        if self._closed:
            return
        self._again = True
        if self._task is None or self._task.done():
            if self._subject.patch() is None and not self._may_delete():
                self._again = False
                return
            self._task = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        """Write no more."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def _may_delete(self) -> bool:
        return not self._deleted and self._subject.deletable()

    async def _run(self) -> None:
        wait = _FIRST_RETRY_S
        while self._again and not self._closed:
            try:
                async with self._slots:
                    self._again = False
                    await self._write()
                wait = _FIRST_RETRY_S
                continue
            except ApiAway:
                pass
            except ApiError as error:
                if error.status == 404:
                    return  # the watch says so, too, and in its order
                if error.status == 409:
                    if await self._is_another():
                        return
                else:
                    name = self._subject.pod["metadata"]["name"]
                    _log.warning("status of pod %s: %s", name, error)
            self._again = True
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LAST_RETRY_S)

    async def _write(self) -> None:
        patch = self._subject.patch()
        path = _path(self._subject.pod)
        if patch is not None:
            self._subject.update(await self._api.patch(f"{path}/status", patch))
            self._again = True
        elif self._may_delete():
            options = {
                "gracePeriodSeconds": 0,
                "preconditions": {"uid": self._subject.pod["metadata"]["uid"]},
            }
            await self._api.delete(path, options)
            self._deleted = True

    async def _is_another(self) -> bool:
        """After a conflict: take the pod as it is; True where another has its name now."""
        try:
            found = await self._api.get(_path(self._subject.pod))
        except ApiAway:
            return False
        except ApiError as error:
            return error.status == 404
        if found["metadata"]["uid"] != self._subject.pod["metadata"]["uid"]:
            return True
        self._subject.update(found)
        return False


def _path(pod: Object) -> str:
    meta = pod["metadata"]
    return f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
