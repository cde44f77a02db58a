"""The creation of a kind cluster: all of it comes up, or nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from aiinfra_lab.errors import AIInfraLabError, InputError, MissingNeed, ProcessError
from aiinfra_lab.files import write_bytes
from aiinfra_lab.kube.clients import apply_crds
from aiinfra_lab.kube.existing import check_access
from aiinfra_lab.kube.kind.config import NodePlan
from aiinfra_lab.kube.kind.engine import Engine, sentence
from aiinfra_lab.kube.kind.image import NODE_IMAGE, is_pinned
from aiinfra_lab.kube.kind.messages import listed, say
from aiinfra_lab.kube.kind.node_image import making
from aiinfra_lab.kube.kind.ready import (
    advertise_gpus,
    await_nodes,
    skew,
    use_shared_storage,
)
from aiinfra_lab.kube.kind.removal import Made, own_nodes, remove
from aiinfra_lab.kube.kind.work import Work, reason, step
from aiinfra_lab.kube.place import Part, Place, Record
from aiinfra_lab.kube.programs import wanted_version
from aiinfra_lab.kube.provider import Wishes
from aiinfra_lab.kube.storage import STORAGE_CLASS
from aiinfra_lab.observability import progress
from aiinfra_lab.settings import settings

LEAST_WAIT_S = 180.0  # it takes 15 to 22 s; shared cores and a first start take far longer
_PULL_S, _CREATE_S, _LOAD_S = 3600.0, 900.0, 900.0
_HINTS = {
    "port is already allocated": "Choose another --port, or none.",
    "no space left": "Free some disk space: docker system df",
    "too many open files": "Raise the limit: sudo sysctl fs.inotify.max_user_instances=512",
}


class Creation:
    """One cluster on its way up; the caller holds its place.

    Parameters
    ----------
    kind : Path
        The program.
    plan : NodePlan
        The nodes.
    template : Path
        What kind's configuration is made from.
    """

    def __init__(
        self, place: Place, engine: Engine, kind: Path, plan: NodePlan, template: Path
    ) -> None:
        self._place, self._engine, self._kind = place, engine, kind
        self._plan, self._template = plan, template
        self._work = Work(place, daemon=engine.has_daemon)
        self._asked_for = 0  # nodes, of kind

    def run(self, wishes: Wishes) -> Record:
        """Create it; give its record.

        Raises
        ------
        MissingNeed
            The node image cannot be had.
        ProcessError
            It did not come up, or was called off. Nothing is left, or stderr says what is.
        """
        from aiinfra_lab.processes import tree

        place = self._place
        record = Record(
            name=place.name,
            phase="starting",
            pid=os.getpid(),
            start_time=tree.start_time(os.getpid()) or 0.0,
            keep=False,
            provider="kind",
        )
        try:
            self._clear_leftovers()
            place.write(record)
            began = time.monotonic()
            self._have_image()
            self._make_nodes(max(wishes.timeout, LEAST_WAIT_S))
            self._make_ready(record, wishes, began)
            self._work.check()
            record.phase, record.start_s = "ready", round(time.monotonic() - began, 3)
            place.write(record)
        except BaseException:
            self._undo(record)
            raise
        return record

    def _clear_leftovers(self) -> None:
        own, _ = own_nodes(self._place, self._engine)
        if own or self._place.read() is not None:
            say(f"removing what the last start of cluster {self._place.name} has left")
            if left := remove(self._place, self._engine, self._kind):
                raise ProcessError(
                    f"what the last start has left cannot be removed: {listed(left)}"
                )
        self._place.clear()

    def _have_image(self) -> None:
        image = self._plan.image
        if self._engine.has_image(image):
            return
        by = "" if is_pinned(image) else ", by a tag, which may name another image tomorrow"
        say(f"pulling the node image {image}{by}")
        log = self._log("pull")
        with progress(None, "node image, layers fetched") as bar:

            def shown(line: str) -> None:
                if line.rstrip().endswith(("Pull complete", "Already exists")):
                    bar.advance()

            status = self._work.run([self._engine.program, "pull", image], log, _PULL_S, shown)
        if status != 0:
            self._plan = replace(self._plan, image=self._image_without_pull(_last(log)))

    def _image_without_pull(self, why: str) -> str:
        lack = MissingNeed(
            f"the node image {self._plan.image} could not be pulled",
            found=why,
            fix="Mend the network, or name an image that is here: --node-image IMAGE",
        )
        if self._plan.image != NODE_IMAGE:
            raise lack
        say(f"it could not be pulled ({why}), so one is made here")
        try:
            return making.make_node_image()
        except MissingNeed as error:
            say(f"it cannot be made here: {sentence(error)}")
            raise lack from None

    def _make_nodes(self, wait: float) -> None:
        import yaml  # type: ignore[import-untyped]

        place, log = self._place, self._log("kind")
        self._plan.data.mkdir(parents=True, exist_ok=True)
        file = place.root / "kind.yaml"
        text = yaml.safe_dump(self._plan.document(self._template), sort_keys=False)
        write_bytes(file, text.encode(), mode=0o600)
        command = [
            *(str(self._kind), "create", "cluster", "--name", place.name),
            *("--config", str(file), "--kubeconfig", str(place.kubeconfig)),
            *("--wait", f"{wait:.0f}s"),
        ]
        self._asked_for = self._plan.workers + 1
        status = self._work.run(command, log, _CREATE_S + wait, _shown)
        if status != 0:
            raise self._failed(log)
        nodes, _ = own_nodes(place, self._engine, all_own=True)
        Made.of(self._plan.image, nodes).write(place)

    def _failed(self, log: Path) -> ProcessError:
        text = log.read_text("utf-8", "replace")
        if "already exist for a cluster" in text:  # somebody was quicker, and they are theirs
            self._asked_for = 0
        why = reason(text)
        kept = settings().cache / "kube" / f"kind-{self._place.name}.log"
        with contextlib.suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(log, kept)
        hints = [hint for words, hint in _HINTS.items() if words in text]
        return ProcessError(
            f"kind could not make cluster {self._place.name}: {why}",
            fix=" ".join([*hints[:1], f"All it said: {kept}"]),
        )

    def _make_ready(self, record: Record, wishes: Wishes, began: float) -> None:
        kubeconfig, wait = self._place.kubeconfig, max(wishes.timeout, LEAST_WAIT_S)
        before = time.monotonic() - began
        seconds = await_nodes(kubeconfig, self._plan.workers + 1, wait, self._work.check)
        record.url = server_of(kubeconfig)
        record.version = check_access(kubeconfig, rights=())
        if warning := skew(record.version, wanted_version("kubectl")):
            say(warning)
        use_shared_storage(kubeconfig, STORAGE_CLASS)
        if wishes.gpus is not None:
            advertise_gpus(kubeconfig, seconds, wishes.gpus)
        if wishes.crds:
            apply_crds(kubeconfig, wishes.crds, wait)
        self.load(wishes.images)
        port = urlsplit(record.url).port or 0
        nodes, _ = own_nodes(self._place, self._engine)
        record.parts = [
            Part(
                node.name,
                pid=0,  # one in the engine's own machine, perhaps
                port=port if node.role == "control-plane" else 0,
                ready_s=round(before + seconds.get(node.name, 0.0), 3),
            )
            for node in nodes
        ]

    def load(self, images: Sequence[str]) -> None:
        """Put local images into every node.

        Raises
        ------
        ProcessError
            kind cannot.
        """
        if not images:
            return
        say(f"loading {listed(images)} into the nodes")
        log = self._log("load")
        command = [str(self._kind), "load", "docker-image", *images, "--name", self._place.name]
        if self._work.run(command, log, _LOAD_S, _shown) != 0:
            why = reason(log.read_text("utf-8", "replace"))
            raise ProcessError(f"the images were not loaded into cluster {self._place.name}: {why}")

    def _undo(self, record: Record) -> None:
        place = self._place
        say(f"removing cluster {place.name} again")
        try:
            left = remove(place, self._engine, self._kind, coming=self._asked_for)
        except AIInfraLabError as also:
            left = [f"its containers ({sentence(also)})"]
        if not left:
            place.remove()
            return
        record.phase, record.sentence = "failed", f"could not be removed: {listed(left)}"
        say(f"{record.sentence}. Try again: aiinfra cluster down --name {place.name}")
        with contextlib.suppress(OSError):
            place.write(record)

    def _log(self, name: str) -> Path:
        self._place.logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self._place.logs / f"{name}.log"


def check_images(engine: Engine, images: Sequence[str]) -> None:
    """See that the images to load are here, before anything is made.

    Raises
    ------
    InputError
        One is not.
    """
    for image in images:
        if not engine.has_image(image):
            raise InputError(
                f"there is no image {image} on this machine to be loaded",
                fix=f"First: docker pull {image}, or docker build -t {image} FOLDER",
            )


def server_of(kubeconfig: Path) -> str:
    """Where the API server of a kubeconfig with one cluster answers."""
    import yaml

    document = yaml.safe_load(kubeconfig.read_text("utf-8"))
    return str(document["clusters"][0]["cluster"]["server"])


def _shown(line: str) -> None:
    if words := step(line):
        say(f"kind: {words}")


def _last(log: Path) -> str:
    from aiinfra_lab.processes.tail import read_tail

    return read_tail(log, 1, 0.0) or "nothing said"
