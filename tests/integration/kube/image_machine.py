"""A machine on which images are made: a course, and stand-ins for docker, go and the script.

Each is a few lines of shell over one folder, ``LAB``: ``images`` has a file for each image, newest
last; ``calls`` notes who was asked; ``be`` has a file for each way to behave.
"""

from __future__ import annotations

import os
from pathlib import Path

from aiinfra_lab.kube.kind.node_image.programs import PROGRAMS

KUBERNETES = "v1.36.2"
NODE = ["kubelet", "kubeadm", "kube-proxy", "kube-apiserver", "kubectl"]
NODE += ["kube-controller-manager", "kube-scheduler"]
OWN = ["coredns", "pause"]

DOCKER = """#!/bin/sh
set -eu
echo "docker $*" >> "$LAB/calls"
file() { printf '%s/images/%s' "$LAB" "$(printf %s "$1" | tr / @)"; }
if [ -e "$LAB/be/no-daemon" ]; then
    echo "Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?" >&2
    exit 1
fi
case "$1 ${2-}" in
"version "*) echo 28.0.0 ;;
"info "*) echo "$LAB/docker" ;;
"image inspect") test -e "$(file "$3")" || { echo "Error: No such image: $3" >&2; exit 1; } ;;
"image ls") ls -t "$LAB/images" | tr @ / | grep "^$3:" || true ;;
"image rm")
    if [ -e "$LAB/be/used" ]; then echo "conflict: container is using it" >&2; exit 1; fi
    rm "$(file "$3")" ;;
"tag "*) cp "$(file "$2")" "$(file "$3")" ;;
"save "*)
    if [ -e "$LAB/be/no-save" ]; then echo "Error response from daemon: no" >&2; exit 1; fi
    echo "image $2"; head -c 300000 /dev/urandom
    if [ -e "$LAB/be/save-hangs" ]; then touch "$LAB/saving"; sleep 300; fi ;;
"load ")
    if [ -e "$LAB/be/full" ]; then echo "write /x: no space left on device" >&2; exit 1; fi
    cat > "$LAB/loaded"
    read -r word name < "$LAB/loaded" || true
    test "$word" = image || { echo "archive/tar: invalid tar header" >&2; exit 1; }
    touch "$(file "$name")" ;;
*) echo "docker: unknown words $*" >&2; exit 1 ;;
esac
"""

GO = """#!/bin/sh
set -eu
for package; do :; done
echo "go $package" >> "$LAB/calls"
if [ -e "$LAB/be/go-hangs" ]; then touch "$LAB/compiling"; sleep 300; fi
if [ -e "$LAB/be/go-says" ]; then cat "$LAB/be/go-says"; exit 1; fi
while [ "$1" != -o ]; do shift; done
echo "$package" > "$2"
"""

BUILD = """#!/bin/sh
set -eu
echo "build $1" >> "$LAB/calls"
test -e "$WORK/$1.done" && exit 0
rm -rf "$WORK/$1.half"
echo "begun $1" >> "$LAB/calls"
echo half > "$WORK/$1.half"
echo "step: $1 begins"
test -e "$LAB/be/$1-hangs" && { touch "$LAB/hanging"; sleep 300; }
test -e "$LAB/be/$1-says" && { cat "$LAB/be/$1-says" >&2; exit 5; }
case $1 in
system) ;;
images) ls "$PROGRAMS" > "$LAB/programs"; cat "$PROGRAMS/kubelet" >> "$LAB/programs" ;;
node) echo "$KUBERNETES" > "$LAB/images/$(printf %s "$TAG" | tr / @)" ;;
python) touch "$LAB/images/$(printf %s "$PYTHON_TAG" | tr / @)" ;;
*) exit 2 ;;
esac
test -e "$LAB/be/no-image" && rm -f "$LAB"/images/*
mv "$WORK/$1.half" "$WORK/$1.done"
"""


class ImageMachine:
    """The machine, and what it is like now."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.programs = folder, folder / "bin"
        self.course, self.cache = folder / "course", folder / "cache"
        for name in ("bin", "images", "be", "docker"):
            (folder / name).mkdir(parents=True)
        for name, text in [("docker", DOCKER), ("go", GO), ("debootstrap", "#!/bin/sh\n")]:
            self.program(self.programs / name, text)
        (folder / "calls").touch()
        write_course(self.course)
        self.program(self.course / "cluster/kind/node/build.sh", BUILD)

    @staticmethod
    def program(path: Path, text: str) -> None:
        """Write a program."""
        path.write_text(text)
        path.chmod(0o755)

    def be(self, name: str, text: str = "") -> None:
        """Behave like that from now on."""
        (self.folder / "be" / name).write_text(text)

    def no_more(self, name: str) -> None:
        """Stop behaving like that."""
        (self.folder / "be" / name).unlink()

    def calls(self, start: str = "") -> list[str]:
        """The calls so far that begin like that."""
        lines = (self.folder / "calls").read_text().splitlines()
        return [line for line in lines if line.startswith(start)]

    def begun(self) -> list[str]:
        """The steps that were done in the calls so far."""
        return [call.split()[1] for call in self.calls("begun ")]

    def forget_calls(self) -> None:
        """Count from here."""
        (self.folder / "calls").write_text("")

    def images(self) -> set[str]:
        """The images that there are."""
        return {path.name.replace("@", "/") for path in (self.folder / "images").iterdir()}

    def remove_images(self) -> None:
        """Remove them all."""
        for path in (self.folder / "images").iterdir():
            path.unlink()

    def cached(self) -> set[str]:
        """What lies in the cache's folder of images, without the lock."""
        folder = self.cache / "kube" / "kind"
        return (
            {path.name for path in folder.iterdir()} - {"build.lock"} if folder.exists() else set()
        )

    def environment(self) -> dict[str, str]:
        """The variables of a process on this machine."""
        return {
            "LAB": str(self.folder),
            "AIINFRA_COURSE": str(self.course),
            "AIINFRA_CACHE": str(self.cache),
            "GOCACHE": str(self.folder / "go"),
            "HOME": str(self.folder),
            "PATH": f"{self.programs}:{os.environ['PATH']}",
        }


def write_course(folder: Path) -> None:
    """A course with two manifests that name all programs."""
    control, node = folder / "cluster/control-plane", folder / "cluster/kind/node"
    control.mkdir(parents=True)
    node.mkdir(parents=True)
    kubernetes = [f"k8s.io/kubernetes/cmd/{name}" for name in NODE]
    _manifest(control, [*kubernetes, "go.etcd.io/etcd/server/v3"])
    others = [name for name in PROGRAMS if name not in (*NODE, *OWN, "etcd")]
    _manifest(node, [f"example.com/tools/{name}" for name in others])
    for name in OWN:
        (node / name).mkdir()
        (node / name / "main.go").write_text("package main\n")


def _manifest(folder: Path, tools: list[str]) -> None:
    required = ["k8s.io/kubernetes v1.36.2", "go.etcd.io/etcd/server/v3 v3.6.8"]
    required += ["example.com/tools v1.0.0"]
    lines = ["module test", "tool (", *(f"\t{tool}" for tool in tools), ")", "require ("]
    lines += [f"\t{line}" for line in required] + [")"]
    (folder / "go.mod").write_text("\n".join(lines) + "\n")
    (folder / "go.sum").write_text("sums\n")
