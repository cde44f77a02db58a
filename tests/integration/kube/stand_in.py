"""Stand-ins for the commands ``docker`` and ``kind``, which note what they were asked.

    python stand_in.py docker|kind WORD...

One folder, ``STAND_IN``, holds their common state, so that what kind makes is what docker shows:
``state.json`` with ``containers``, ``images``, ``volumes`` and how to behave (``daemon``,
``reachable``, ``fail``, ``hang``, ``stubborn``, ``late``, ``unready``), and ``calls.jsonl``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LABEL = "io.x-k8s.kind.cluster"
START: dict[str, Any] = {
    "daemon": True,
    "reachable": True,  # the registry
    "fail": "",  # what `kind create` prints before it gives up
    "hang": 0.0,  # seconds that it waits for its nodes
    "late": 0.0,  # seconds after which the daemon has made a container whose client has gone
    "stubborn": [],  # names of containers that cannot be removed
    "conmon": False,  # True: containers are processes that kind starts; then the pid of one
    "quicker": False,  # whether somebody makes a cluster of that name just before kind
    "version": "v0.33.0",
    "url": "https://127.0.0.1:1",
    "containers": [],
    "images": [],
    "volumes": [],
}
FOLDER = Path(os.environ.get("STAND_IN", "."))


@contextlib.contextmanager
def state(folder: Path = FOLDER) -> Iterator[dict[str, Any]]:
    """The state, written back at the end; one process at a time."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = folder / "state.json"
        now = json.loads(path.read_text()) if path.exists() else dict(START)
        yield now
        path.write_text(json.dumps(now, indent=1))


def calls(folder: Path, program: str, *start: str) -> list[list[str]]:
    """The words of every call of ``program`` that begin with ``start``."""
    lines = (folder / "calls.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    words = [words for name, *words in found if name == program]
    return [call for call in words if call[: len(start)] == list(start)]


def fail(text: str, status: int = 1) -> None:
    """End as a command does that cannot."""
    print(text, file=sys.stderr)
    sys.exit(status)


def option(words: list[str], name: str) -> str:
    """The word after ``name``; empty without it."""
    return words[words.index(name) + 1] if name in words else ""


def docker(words: list[str]) -> None:
    """What the course and kind ask of docker."""
    with state() as now:
        if not now["daemon"]:
            fail("Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?")
        cut = time.time()
        there = [one for one in now["containers"] if one["since"] <= cut]
        match words:
            case ["version", *_]:
                print("28.0.0")
            case ["ps", *_]:
                _, _, cluster = option(words, "--filter").partition(f"label={LABEL}=")
                print("\n".join(o["Id"] for o in there if o["Config"]["Labels"][LABEL] == cluster))
            case ["inspect", *ids]:
                print(json.dumps([one for one in there if one["Id"] in ids]))
                sys.exit(0 if all(i in [one["Id"] for one in there] for i in ids) else 1)
            case ["image", "inspect", name]:
                if name not in now["images"]:
                    fail(f"Error: No such image: {name}")
            case ["pull", name]:
                if not now["reachable"]:
                    fail("Error response from daemon: dial tcp: lookup registry: no such host")
                print("a1b2: Pulling fs layer\na1b2: Pull complete\nc3d4: Already exists")
                now["images"].append(name)
            case ["rm", "-f", "-v", *ids]:
                remove(now, ids)
            case ["volume", "ls", *_]:
                print("\n".join(now["volumes"]))
            case ["volume", "rm", *names]:
                used = [m.get("Name") for one in now["containers"] for m in one["Mounts"]]
                gone = set(names) - set(used)
                now["volumes"] = [name for name in now["volumes"] if name not in gone]
            case ["logs", name]:
                print(f"systemd of {name} reached its target")
            case ["run", "--rm", *_]:
                empty(words)
            case _:
                fail(f"docker: unknown words {words}")


def remove(now: dict[str, Any], ids: list[str]) -> None:
    """Remove containers with their volumes, but not those that are stubborn."""
    gone = [one for one in now["containers"] if one["Id"] in ids]
    gone = [one for one in gone if one["Name"].lstrip("/") not in now["stubborn"]]
    volumes = {m["Name"] for one in gone for m in one["Mounts"] if m["Type"] == "volume"}
    now["containers"] = [one for one in now["containers"] if one not in gone]
    now["volumes"] = [name for name in now["volumes"] if name not in volumes]


def empty(words: list[str]) -> None:
    """Empty the mounted folder, as root would."""
    (volume,) = [word for word in words if word.startswith("--volume=")]
    folder = Path(volume.removeprefix("--volume=").partition(":")[0])
    for path in sorted(folder.rglob("*"), reverse=True):
        path.parent.chmod(0o700)
        path.rmdir() if path.is_dir() else path.unlink()


def kind(words: list[str]) -> None:
    """What the course asks of kind."""
    match words:
        case ["version"]:
            with state() as now:
                print(f"kind {now['version']} go1.26.8 linux/amd64")
        case ["create", "cluster", *_]:
            create(words)
        case ["delete", "cluster", *_]:
            with state() as now:
                if not now["daemon"]:
                    fail("ERROR: failed to list nodes")
                name = option(words, "--name")
                of_it = [o for o in now["containers"] if o["Config"]["Labels"][LABEL] == name]
                remove(now, [one["Id"] for one in of_it])
        case ["load", "docker-image", *_]:
            with state() as now:
                if now["fail"]:
                    fail(now["fail"])
        case ["export", "logs", folder, *_]:
            export(Path(folder), option(words, "--name"))
        case _:
            fail(f"ERROR: unknown command {words}")


def create(words: list[str]) -> None:
    """Make the containers of a configuration, wait, and write a kubeconfig or give up."""
    import yaml

    asked = yaml.safe_load(Path(option(words, "--config")).read_text())
    name = option(words, "--name")
    print(f'Creating cluster "{name}" ...', file=sys.stderr)
    print(" \u2022 Ensuring node image (kindest/node:v1) \U0001f5bc  ...", file=sys.stderr)
    print(" \u2713 Ensuring node image (kindest/node:v1) \U0001f5bc", file=sys.stderr)
    print(" \u2022 Preparing nodes \U0001f4e6  ...", file=sys.stderr)
    with state() as now:
        if now["quicker"]:
            stranger = {"role": "control-plane", "image": "theirs", "extraMounts": []}
            now["containers"].append(container(name, 0, stranger, 0.0))
            refused = f'node(s) already exist for a cluster with the name "{name}"'
        else:
            refused = ""
        hang, failure = now["hang"], now["fail"]
        now["last"] = [[node["role"], node["image"]] for node in asked["nodes"]]
        for number, node in enumerate([] if refused else asked["nodes"]):
            if node["image"] not in now["images"]:
                fail(f"ERROR: failed to create cluster: failed to pull image {node['image']}")
            now["containers"].append(container(name, number, node, now["late"]))
            now["volumes"].append(f"var-{name}-{number}")
        if now["conmon"]:
            nowhere = subprocess.DEVNULL
            child = subprocess.Popen(
                ["sleep", "300"], stdout=nowhere, stderr=nowhere, start_new_session=True
            )
            now["conmon"] = child.pid
    if refused:
        fail(f"ERROR: failed to create cluster: {refused}")
    (FOLDER / "creating").touch()
    time.sleep(hang)
    if failure:
        with state() as now:
            remove(
                now, [one["Id"] for one in now["containers"] if one["Id"].startswith(f"{name}-")]
            )
        fail(failure)
    target = option(words, "--kubeconfig") or os.environ.get("KUBECONFIG") or "~/.kube/config"
    kubeconfig(Path(target).expanduser(), name, now["url"])


def container(name: str, number: int, node: dict[str, Any], late: float) -> dict[str, Any]:
    """One node as ``docker inspect`` shows it."""
    role = node["role"]
    suffix = role if number < 2 else f"{role}{number}"
    binds = [(m["hostPath"], m["containerPath"]) for m in node["extraMounts"]]
    mounts = [{"Type": "bind", "Source": src, "Destination": dst} for src, dst in binds]
    volume = {"Type": "volume", "Name": f"var-{name}-{number}", "Destination": "/var"}
    return {
        "Id": f"{name}-{number}-{os.getpid()}",
        "Name": f"/{name}-{suffix}",
        "State": {"Status": "running"},
        "Config": {"Image": node["image"], "Labels": {LABEL: name, "io.x-k8s.kind.role": role}},
        "HostConfig": {"Binds": [f"{src}:{dst}" for src, dst in binds]},
        "Mounts": [*mounts, volume],
        "since": time.time() + late,
    }


def kubeconfig(path: Path, name: str, url: str) -> None:
    """A kubeconfig with one context."""
    import yaml

    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": f"kind-{name}", "cluster": {"server": url}}],
        "users": [{"name": f"kind-{name}", "user": {"token": "t"}}],
        "contexts": [
            {"name": f"kind-{name}", "context": {"cluster": f"kind-{name}", "user": f"kind-{name}"}}
        ],
        "current-context": f"kind-{name}",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document))


def export(folder: Path, name: str) -> None:
    """Logs as ``kind export logs`` lays them out."""
    node = folder / f"{name}-control-plane"
    (node / "containers").mkdir(parents=True)
    (node / "kubelet.log").write_text("kubelet says so\n")
    file = f"kube-scheduler-{node.name}_kube-system_kube-scheduler-0123.log"
    (node / "containers" / file).write_text("scheduler says so\n")


if __name__ == "__main__":
    program, *given = sys.argv[1:]
    with (FOLDER / "calls.jsonl").open("a") as notes:
        notes.write(json.dumps([program, *given]) + "\n")
    {"docker": docker, "kind": kind}[program](given)
