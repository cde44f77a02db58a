"""Clusters made by kind: created, taken up again, looked at, and removed to the last container.

Docker holds a cluster while it runs, so no process of ours does. Its place is held only by who
creates or removes it: two commands never work on one name, and a creation that was killed is
told from one that runs.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from aiinfra_lab.errors import AIInfraLabError, InputError, MissingNeed, ProcessError
from aiinfra_lab.kube.clients import apply_crds, read_crds
from aiinfra_lab.kube.existing import check_access
from aiinfra_lab.kube.kind.config import TEMPLATE, NodePlan, environment_folders
from aiinfra_lab.kube.kind.creation import LEAST_WAIT_S, Creation, check_images
from aiinfra_lab.kube.kind.engine import Engine, run, sentence
from aiinfra_lab.kube.kind.image import NODE_IMAGE, checked_image, choose_image
from aiinfra_lab.kube.kind.logs import CREATION, node_log
from aiinfra_lab.kube.kind.messages import listed, say
from aiinfra_lab.kube.kind.removal import Made, data_folder, own_nodes, remove
from aiinfra_lab.kube.kind.work import call_off
from aiinfra_lab.kube.place import Place, Record
from aiinfra_lab.kube.programs import find_program, wanted_version
from aiinfra_lab.kube.provider import (
    Access,
    Wishes,
    own_record,
    refuse_unmet,
    unknown_cluster,
)
from aiinfra_lab.kube.shared import find_shared

_END_S = 120.0  # for another process to give a creation up; it takes seconds
_VERSION_S = 10.0


class KindProvider:
    """The provider ``kind``: each node is a container, and pods are containers in it."""

    meets: ClassVar[frozenset[str]] = frozenset({"port", "node_image", "workers", "gpus", "images"})

    def up(self, name: str, wishes: Wishes) -> Access:
        """Create a cluster, or take up the one that runs; returns when all its nodes are ready.

        Raises
        ------
        InputError
            A wish cannot be met, or the name belongs to another cluster.
        MissingNeed
            Docker or kind is not here, or the node image cannot be had.
        ProcessError
            It did not come up, and nothing of it is left; or it is there and does not work.
        """
        refuse_unmet(wishes, "kind")
        place = Place(name)
        own_record(place, "kind")
        engine, kind = Engine.find(), find_kind()
        plan = _plan(place, wishes)
        template = find_shared(TEMPLATE, "the template of a kind cluster")
        plan.document(template)
        if wishes.gpus is not None and wishes.gpus < 0:
            raise InputError(f"a node cannot have {wishes.gpus} GPUs")
        read_crds(wishes.crds)
        check_images(engine, [checked_image(image) for image in wishes.images])
        if not place.hold():
            raise InputError(
                f"cluster {name} is being started or ended by another process",
                fix=f"Wait for that, or: aiinfra cluster down --name {name}",
            )
        try:
            record = own_record(place, "kind")
            _, strangers = own_nodes(place, engine)
            if strangers:
                raise InputError(
                    f"there is a kind cluster {name} already, and it was not made from here",
                    fix=f"Choose another name, or: kind delete cluster --name {name}",
                )
            if record is not None and record.phase == "ready":
                _check_taken(place, record, engine, wishes)
                if wishes.crds:
                    apply_crds(place.kubeconfig, wishes.crds, max(wishes.timeout, LEAST_WAIT_S))
                Creation(place, engine, kind, plan, template).load(wishes.images)
            else:
                # Only now: to have it may mean to load an archive.
                plan = replace(plan, image=choose_image(engine, wishes.node_image))
                record = Creation(place, engine, kind, plan, template).run(wishes)
            return Access.to(place, record)
        finally:
            if place.read() is None:
                place.remove()
            place.release()

    def down(self, name: str, *, keep: bool = False) -> None:
        """Remove a cluster: its containers, volumes, claims' data and kubeconfig.

        Also one that another process is still starting, which is asked to give up first.

        Raises
        ------
        InputError
            There is no such cluster; or it is to be kept, which kind cannot.
        MissingNeed
            Docker is not here to be asked.
        ProcessError
            Something could not be removed; it is named, and another ``down`` tries again.
        """
        if keep:
            raise InputError(
                "a kind cluster is removed whole, so --keep cannot be met",
                fix="Its containers can be halted: docker stop and docker start",
            )
        place = Place(name)
        record = own_record(place, "kind")
        if record is None and not place.is_held:
            raise unknown_cluster(name)
        engine = Engine.find()
        _hold(place)
        try:
            record = place.read() or record
            if left := remove(place, engine, _kind_or_none()):
                said = f"of cluster {name} could not be removed: {listed(left)}"
                if record is not None:
                    record.phase, record.sentence = "failed", said
                    place.write(record)
                raise ProcessError(said, fix="Remove it, as root if needed, and try again.")
            place.remove()
        finally:
            place.release()

    def record(self, name: str) -> Record | None:
        """What is known, with a look whether its nodes run and it answers."""
        place = Place(name)
        held = place.is_held  # before the record: who creates it writes that before letting go
        record = place.read()
        if record is None or held:
            return record
        if record.phase == "ready":
            if why := _ailment(place):
                record.phase, record.sentence = "failed", why
        elif record.phase != "failed":
            record.phase = "killed"
        return record

    def log(self, name: str, component: str) -> Path:
        """The log of a node, of a component in it, or of ``kind`` itself, as it is now.

        Raises
        ------
        InputError
            There is no such cluster or component, or it has written nothing.
        """
        place = Place(name)
        if own_record(place, "kind") is None:
            raise unknown_cluster(name)
        if component != CREATION:
            return node_log(place, Engine.find(), find_kind(), component)
        path = place.logs / f"{CREATION}.log"
        if not path.exists():
            raise InputError(f"kind has written no log of cluster {name}")
        return path


def find_kind() -> Path:
    """The program; a warning says so where it is not of the version that the course pins.

    Raises
    ------
    MissingNeed
        It is not here, or not whole.
    """
    program = find_program("kind")
    if program is None:
        raise MissingNeed("kind is not here", fix="To get it: aiinfra cluster install kind")
    wanted, found = wanted_version("kind"), program.version
    if not found:
        words = run((str(program.path), "version"), _VERSION_S).stdout.split()
        found = words[1] if len(words) > 1 else "of no version that it says"
    if found != wanted:
        say(
            f"{program.path} is kind {found}, and {wanted} is what node images and this course "
            "are made for. To get that: aiinfra cluster install kind"
        )
    return program.path


def _kind_or_none() -> Path | None:
    try:
        program = find_program("kind")
    except MissingNeed:
        return None
    return program.path if program else None


def _plan(place: Place, wishes: Wishes) -> NodePlan:
    """The nodes; of an image that may be another one where none is wished for."""
    folders, refused = environment_folders()
    if refused:
        say(
            f"pods will not see {listed([str(path) for path in refused])} of this machine, where "
            "this Python lies: nodes have their own. A Python in a folder of its own can be seen"
        )
    return NodePlan(
        name=place.name,
        image=NODE_IMAGE if wishes.node_image is None else checked_image(wishes.node_image),
        workers=wishes.workers,
        data=data_folder(place),
        mounts=tuple(folders),
        port=wishes.port,
    )


def _check_taken(place: Place, record: Record, engine: Engine, wishes: Wishes) -> None:
    """Whether the cluster that is there works, and is what is wished for."""
    fix = f"First: aiinfra cluster down --name {place.name}"
    if why := _ailment(place):
        raise ProcessError(f"cluster {place.name} is there and does not work: {why}", fix=fix)
    image = Made.read(place).image
    others = {
        "port": wishes.port and not record.url.endswith(f":{wishes.port}"),
        "node image": wishes.node_image and wishes.node_image != image,
        "number of workers": wishes.workers and wishes.workers != len(record.parts) - 1,
    }
    if changed := [what for what, differs in others.items() if differs]:
        raise InputError(
            f"cluster {place.name} is up already, and takes no other {listed(changed)}", fix=fix
        )


def _ailment(place: Place) -> str:
    """Why a cluster that came up does not work now; empty if it does."""
    try:
        own, _ = own_nodes(place, Engine.find())
        if not own:
            return "its containers have gone"
        if ended := [f"{node.name} is {node.state}" for node in own if not node.runs]:
            return listed(ended)
        check_access(place.kubeconfig, rights=())
    except AIInfraLabError as error:
        return sentence(error)
    return ""


def _hold(place: Place) -> None:
    """Take the place, from whoever starts the cluster if need be."""
    last = time.monotonic() + _END_S
    while not place.hold():
        call_off(place)
        if time.monotonic() > last:
            raise ProcessError(f"cluster {place.name} is in use and is not let go")
