"""A case's own namespace: what it makes there, and every state of it that the cluster shows.

One watch a kind serves all cases. It keeps each version of an object, so that a case can ask for
a state that has passed already, and for one that must never have been.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from aiinfra_lab.kube.programs import find_programs

from .api import LIMIT_S, LOOK_S, Api, Object, Refused, path_of
from .manifests import PYTHON, of_image

T = TypeVar("T")
WATCHED = ("Pod", "Job", "Event")
_numbers = itertools.count(1)


class Namespace:
    """One namespace, as the API server shows it.

    Attributes
    ----------
    name : str
        Its name.
    api : Api
        The whole cluster.
    provider : str
        Whose cluster it is.
    image : str
        What its containers with Python are of.
    scratch : Path
        A folder of this machine for what the case writes.
    """

    def __init__(self, name: str, shown: Shown) -> None:
        self.name, self.api, self.provider = name, shown.api, shown.provider
        self.image, self.scratch = shown.image or PYTHON, shown.scratch / name
        self._shown, self._news = shown, asyncio.Event()
        self._versions: dict[tuple[str, str], list[Object]] = defaultdict(list)
        self._there: dict[tuple[str, str], Object] = {}

    def note(self, kind: str, what: str, found: Object) -> None:
        """Take in what a watch shows."""
        key = kind, found["metadata"]["name"]
        self._versions[key].append(found)
        if what == "DELETED":
            self._there.pop(key, None)
        else:
            self._there[key] = found
        self._news.set()

    # Ask for something.

    async def create(self, *objects: Object) -> None:
        """Create objects, in order."""
        for item in objects:
            if self._shown.image:
                item = of_image(item, self._shown.image)
            kind = item["kind"]
            group = path_of(kind).removeprefix("/apis/").removeprefix("/api/").rpartition("/")[0]
            await self.api.ask("POST", path_of(kind, self.name), {"apiVersion": group, **item})

    async def get(self, kind: str, name: str) -> Object:
        """Read an object."""
        return await self.api.ask("GET", path_of(kind, self.name, name))

    async def patch(self, kind: str, name: str, body: Object) -> None:
        """Change an object by a merge patch."""
        media = "application/merge-patch+json"
        await self.api.ask("PATCH", path_of(kind, self.name, name), body, kind=media)

    async def delete(self, kind: str, name: str, **options: Any) -> None:
        """Delete an object with DeleteOptions such as ``gracePeriodSeconds``."""
        await self.api.ask("DELETE", path_of(kind, self.name, name), options)

    async def log(self, pod: str, container: str = "main", **query: str) -> str:
        """A container's log."""
        path = path_of("Pod", self.name, f"{pod}/log")
        return await self.api.text(path, container=container, **query)

    async def follow(self, pod: str, container: str = "main", **query: str) -> AsyncIterator[str]:
        """The lines of a container's log, until its end."""
        path = path_of("Pod", self.name, f"{pod}/log")
        async for line in self.api.lines(path, container=container, follow="true", **query):
            yield line

    async def kubectl(self, *words: str, check: bool = True, stdin: str = "") -> str:
        """What kubectl prints; with ``check`` it must succeed."""
        program = find_programs(["kubectl"])["kubectl"]
        process = await asyncio.create_subprocess_exec(
            program,
            f"--namespace={self.name}",
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"KUBECONFIG": str(self.api.kubeconfig), "HOME": str(self.scratch.parent)},
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(stdin.encode()), LIMIT_S)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        text = output.decode()
        assert not check or process.returncode == 0, f"kubectl {' '.join(words)}: {text}"
        return text

    async def another(self) -> Namespace:
        """A second namespace, for as long as the case lasts."""
        return await self._shown.open(self.name)

    # Wait for something.

    def there(self, kind: str = "Pod") -> list[Object]:
        """The objects that are there now."""
        return [found for (one, _), found in self._there.items() if one == kind]

    def versions(self, kind: str, name: str) -> list[Object]:
        """Every version of an object that was shown, its last one before it went included."""
        return self._versions[kind, name]

    def names(self, kind: str = "Pod") -> set[str]:
        """The names of all objects that were ever there."""
        return {name for one, name in self._versions if one == kind}

    async def until(self, look: Callable[[], T | bool | None], limit: float = LIMIT_S) -> T:
        """What ``look`` gives once it gives something; it looks at what the watches show."""
        try:
            async with asyncio.timeout(limit):
                while not (found := look()):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"it did not happen within {limit:g} s\n{self.story()}") from None
        return found  # type: ignore[return-value]

    async def seen(
        self, kind: str, name: str, when: Callable[[Object], object], limit: float = LIMIT_S
    ) -> Object:
        """The first version of an object, past or to come, that satisfies ``when``."""
        versions = self._versions[kind, name]
        return await self.until(lambda: next((v for v in versions if when(v)), None), limit)

    async def pod(self, name: str, when: Callable[[Object], object]) -> Object:
        """As ``seen``, for pods."""
        return await self.seen("Pod", name, when)

    async def job(self, name: str, when: Callable[[Object], object]) -> Object:
        """As ``seen``, for Jobs."""
        return await self.seen("Job", name, when)

    async def event(self, reason: str, about: str) -> str:
        """The message of an event about the object called ``about``."""

        def look() -> str | None:
            for found in self.there("Event"):
                if found["reason"] == reason and found["involvedObject"]["name"] == about:
                    return str(found["message"]) or reason
            return None

        return await self.until(look)

    async def gone(self, kind: str, name: str) -> None:
        """Wait until the API server has no such object any more, and the watch has told its end."""
        await self.api.gone(path_of(kind, self.name, name))
        await self.until(lambda: (kind, name) not in self._there)

    def story(self) -> str:
        """What is there now, for the reader of a failure."""
        lines = []
        for found in self.there("Pod") + self.there("Job"):
            name, told = found["metadata"]["name"], found.get("status", {})
            lines.append(f"{found.get('kind', 'object')} {name}: {json.dumps(told)}")
        for found in self.there("Event"):
            about = found["involvedObject"]["name"]
            lines.append(f"event {found['reason']} {about}: {found['message']}")
        return "\n".join(lines) or "nothing is there"


class Shown:
    """All that the watches of one cluster show, given to the namespaces."""

    def __init__(self, api: Api, provider: str, scratch: Path, image: str | None = None) -> None:
        self.api, self.provider, self.scratch, self.image = api, provider, scratch, image
        self._namespaces: dict[str, Namespace] = {}

    async def open(self, owner: str = "") -> Namespace:
        """A new namespace, ready for pods; ``owner`` names the one that it goes with."""
        name = f"{owner}-b" if owner else f"c-{os.getpid()}-{next(_numbers)}"
        made = self._namespaces[name] = Namespace(name, self)
        made.scratch.mkdir(parents=True)
        body = {"metadata": {"name": name, "labels": {"aiinfra": "test"}}}
        await self.api.ask("POST", path_of("Namespace"), body)
        # Until the controllers have made it, no pod is admitted.
        await self.api.come(path_of("ServiceAccount", name, "default"))
        return made

    async def close(self, name: str) -> None:
        """End what runs in a namespace, and in those that go with it; nobody waits for that.

        Only a cluster that goes on is rid of the namespaces themselves: each costs the controllers
        some sixty requests, and all of them almost half of the suite's time.
        """
        for one in (name, f"{name}-b"):
            paths = [path_of("Namespace", name=one)]
            if self.provider != "existing":
                paths = [path_of("Job", one), path_of("Pod", one)]
            for path in paths if one in self._namespaces else ():
                options = {"propagationPolicy": "Background", "gracePeriodSeconds": 0}
                with contextlib.suppress(Refused, aiohttp.ClientError):
                    await self.api.ask("DELETE", path, options)

    async def watch(self, kind: str, synced: asyncio.Event) -> None:
        """Follow a kind in all namespaces, for ever, also over restarts of the API server."""
        version = ""
        while True:
            with contextlib.suppress(aiohttp.ClientError, Refused):
                if not version:
                    listed = await self.api.ask("GET", path_of(kind), limit="1")
                    version = listed["metadata"]["resourceVersion"]
                    synced.set()
                query = {"watch": "true", "resourceVersion": version}
                async for line in self.api.lines(path_of(kind), **query):
                    event = json.loads(line)
                    found = event["object"]
                    if event["type"] == "ERROR":  # what came after this version is forgotten
                        version = ""
                        break
                    version = found["metadata"]["resourceVersion"]
                    if room := self._namespaces.get(found["metadata"]["namespace"]):
                        room.note(kind, event["type"], found)
            await asyncio.sleep(LOOK_S)
