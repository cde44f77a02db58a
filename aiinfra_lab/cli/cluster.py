"""``cluster``: a Kubernetes on this machine, or one that is there, by name."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aiinfra_lab.cli import node_image as images
from aiinfra_lab.cli.output import JsonOption, print_json, print_table

if TYPE_CHECKING:
    from aiinfra_lab.kube.provider import ClusterProvider

NameOption = Annotated[str, typer.Option("--name", metavar="NAME", help="The cluster's name.")]
_DEFAULT = "local"
_LOOK_S = 0.1


class From(StrEnum):
    """Where programs may come from."""

    ANY = "any"
    DOWNLOAD = "download"
    BUILD = "build"


def register(app: typer.Typer) -> None:
    """Add this module's group."""
    group = typer.Typer(
        name="cluster",
        help="A real Kubernetes: as processes, in containers, or a cluster that is there.",
        no_args_is_help=True,
    )
    for command in (up, down, status, logs, kubeconfig, install):
        group.command()(command)
    images.register(group)
    app.add_typer(group)


def up(
    name: NameOption = _DEFAULT,
    provider: Annotated[
        str,
        typer.Option(help="local: made of processes; kind: of containers; existing: a kubeconfig."),
    ] = "local",
    crd: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="CustomResourceDefinitions, there from the start."),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the API server; 0: any free one.")
    ] = 0,
    kubeconfig: Annotated[
        Path | None, typer.Option(help="For existing; by default KUBECONFIG or ~/.kube/config.")
    ] = None,
    context: Annotated[
        str | None, typer.Option(help="For existing; by default the current one.")
    ] = None,
    node_image: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE", help="For kind; by default that of node-image, else kindest/node."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, max=20, help="For local and kind: nodes beside the first.")
    ] = 0,
    gpus: Annotated[
        int | None,
        typer.Option(min=0, help="For local and kind: nvidia.com/gpu of each node."),
    ] = None,
    load: Annotated[
        list[str] | None,
        typer.Option(metavar="IMAGE", help="For kind: local images that its pods are to find."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds that one component may take to start.")
    ] = 120.0,
    as_json: JsonOption = False,
) -> None:
    """Have a cluster run, and print its kubeconfig. It stays until you take it down.

    Example: export KUBECONFIG=$(aiinfra cluster up --name t)
    """
    from aiinfra_lab.kube.provider import Wishes, get_provider, refuse_unmet

    chosen = get_provider(provider)
    wishes = Wishes(
        port=port,
        crds=crd or (),
        kubeconfig=kubeconfig,
        context=context,
        timeout=timeout,
        node_image=node_image,
        workers=workers,
        gpus=gpus,
        images=load or (),
    )
    refuse_unmet(wishes, provider)
    _have_programs(provider)
    print(f"aiinfra: starting cluster {name}", file=sys.stderr)
    access = chosen.up(name, wishes)
    record = chosen.record(name)
    if as_json:
        print_json(_document(record))
        return
    seconds = f" in {record.start_s:.1f} s" if record and record.start_s else ""
    print(f"aiinfra: Kubernetes {access.version} at {access.url}{seconds}", file=sys.stderr)
    print(access.kubeconfig)


def _have_programs(provider: str) -> None:
    from aiinfra_lab.errors import MissingNeed
    from aiinfra_lab.kube.components import COMPONENTS
    from aiinfra_lab.kube.installation import install as obtain
    from aiinfra_lab.kube.programs import find_programs
    from aiinfra_lab.needs import KUBE_PROGRAMS

    if provider == "kind":
        from aiinfra_lab.kube.kind.engine import Engine

        Engine.find()  # where there is no Docker, kind is fetched for nothing
    needed, wanted = {
        "local": (COMPONENTS, KUBE_PROGRAMS),
        "kind": (("kind",), ("kind",)),
    }.get(provider, ((), ()))
    try:
        find_programs(needed)
    except MissingNeed:
        print(f"aiinfra: getting {', '.join(wanted)}, once; minutes", file=sys.stderr)
        obtain(wanted)


def down(
    name: NameOption = _DEFAULT,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep its objects: the next up has them again.")
    ] = False,
) -> None:
    """End a cluster, also one that is still starting, and remove what it has stored.

    Example: aiinfra cluster down --name t
    """
    _provider_of(name).down(name, keep=keep)
    kept = ", its state is kept" if keep else ""
    print(f"aiinfra: cluster {name} is down{kept}", file=sys.stderr)


def status(
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="One cluster; all by default.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Show the clusters, and of one its components. Exit code 1 if the one is not ready.

    Example: aiinfra cluster status --name t
    """
    from aiinfra_lab.kube.place import known_clusters
    from aiinfra_lab.kube.provider import unknown_cluster

    if name is None:
        records = [_provider_of(place.name).record(place.name) for place in known_clusters()]
        documents = [_document(record) for record in records if record is not None]
        if as_json:
            print_json(documents)
        else:
            _print_clusters(documents)
        return 0
    record = _provider_of(name).record(name)
    if record is None:
        raise unknown_cluster(name)
    document = _document(record)
    if as_json:
        print_json(document)
    else:
        _print_clusters([document])
        _print_parts(document["parts"])
        if document["sentence"]:
            print(f"aiinfra: {document['sentence']}", file=sys.stderr)
    return 0 if document["phase"] == "ready" else 1


def logs(
    component: Annotated[
        str,
        typer.Argument(
            help="etcd, apiserver, controller-manager or scheduler; of local also supervisor, "
            "node-1 (its agent) and node-1-runtime; of kind also kubelet, containerd, a node's "
            "name, or kind itself."
        ),
    ],
    name: NameOption = _DEFAULT,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    tail: Annotated[int, typer.Option(min=0, help="How many of the last lines.")] = 50,
) -> None:
    """Print the last lines of a component's log.

    Example: aiinfra cluster logs scheduler --name t -f
    """
    from collections import deque

    from aiinfra_lab.processes.tail import follow as follow_log

    lines = follow_log(_provider_of(name).log(name, component))
    last: deque[str] = deque(maxlen=tail)
    for line in lines:
        if line is None:
            break
        last.append(line)
    for line in last:
        print(line)
    sys.stdout.flush()
    if follow:
        _print_as_they_come(lines)


def _print_as_they_come(lines: Iterator[str | None]) -> None:
    for line in lines:
        if line is None:
            sys.stdout.flush()
            time.sleep(_LOOK_S)
        else:
            print(line)


def kubeconfig(name: NameOption = _DEFAULT) -> None:
    """Print the path of a running cluster's kubeconfig.

    Example: export KUBECONFIG=$(aiinfra cluster kubeconfig --name t)
    """
    from aiinfra_lab.errors import AIInfraLabError
    from aiinfra_lab.kube.place import Place

    record = _provider_of(name).record(name)
    if record is None or record.phase != "ready":
        raise AIInfraLabError(
            f"cluster {name} is not up", fix=f"First: aiinfra cluster up --name {name}"
        )
    print(Place(name).kubeconfig)


def install(
    programs: Annotated[
        list[str] | None,
        typer.Argument(help="Some of the programs, or kind; the control plane's by default."),
    ] = None,
    source: Annotated[
        From, typer.Option("--from", help="any: download, and build what cannot be downloaded.")
    ] = From.ANY,
    again: Annotated[bool, typer.Option("--again", help="Get even those that are here.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Get the programs of a control plane: found, downloaded, or built with Go.

    Example: aiinfra cluster install --from build
    """
    from aiinfra_lab.kube.installation import install as obtain
    from aiinfra_lab.needs import KUBE_PROGRAMS

    found = obtain(programs or KUBE_PROGRAMS, source=source.value, again=again)
    rows = [[item.name, item.version or "as it is", item.origin, str(item.path)] for item in found]
    columns = ["program", "version", "from", "path"]
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, rows)


def _provider_of(name: str) -> ClusterProvider:
    """The provider that made the cluster; local for one that nobody made."""
    from aiinfra_lab.kube.place import Place
    from aiinfra_lab.kube.provider import get_provider

    record = Place(name).read()
    return get_provider(record.provider if record else "local")


def _document(record: Any) -> dict[str, Any]:
    from dataclasses import asdict

    from aiinfra_lab.kube.place import Place

    document = asdict(record) | {"kubeconfig": str(Place(record.name).kubeconfig)}
    for part in document["parts"]:
        known = part["pid"] and record.phase == "ready"
        part["rss_mb"] = _resident_mb(part["pid"]) if known else None
    return document


def _resident_mb(pid: int) -> int | None:
    import psutil

    try:
        return round(psutil.Process(pid).memory_info().rss / 1e6)
    except psutil.Error:
        return None


def _print_clusters(documents: list[dict[str, Any]]) -> None:
    rows = [
        [item["name"], item["phase"], item["provider"], item["version"], item["url"]]
        for item in documents
    ]
    print_table(["name", "status", "provider", "version", "address"], rows)


def _print_parts(parts: list[dict[str, Any]]) -> None:
    if not parts:
        return
    rows = [
        [
            part["name"],
            str(part["pid"] or ""),  # a container has none here
            str(part["port"] or ""),
            f"{part['ready_s']:.1f} s",
            "" if part["rss_mb"] is None else f"{part['rss_mb']} MB",
            str(part["restarts"]),
        ]
        for part in parts
    ]
    print_table(["component", "pid", "port", "ready after", "memory", "restarts"], rows)
