"""A machine of its own for a Docker daemon: interfaces, rules and mounts, and ways to ask it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import psutil
from leftovers import living

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "cluster/kind/dockerd.sh"
IMAGE = "aiinfra-test-dockerd"
# Says that it is there, and ends when it is asked to.
WAITING = ("sh", "-c", "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done")
FORWARDING = ("ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/default/forwarding")


class Machine:
    """Namespaces in which ``dockerd.sh`` drives a daemon that shares nothing with the machine's."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder, folder / "state"
        self.environment = dict(os.environ) | {
            "AIINFRA_DOCKER_STATE": str(self.state),
            "AIINFRA_DOCKER_ROOT": str(folder / "root"),
            "AIINFRA_DOCKER_SOCKET": str(folder / "docker.sock"),
            "DOCKER_HOST": f"unix://{folder}/docker.sock",
        }
        words = ["unshare", "--net", "--mount", "sh", "-c", "echo ready; exec sleep infinity"]
        self.holder = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == b"ready\n"
        self.run("ip", "link", "set", "lo", "up")
        for name in FORWARDING:
            self.run("sh", "-c", f"test ! -e /proc/sys/net/{name} || echo 0 >/proc/sys/net/{name}")

    def close(self) -> None:
        """End all of it, also after a test that failed half-way."""
        self.dockerd("stop", "--force")
        for one in psutil.process_iter():
            if any(str(self.folder) in word for word in words_of(one)):
                one.kill()
        self.holder.kill()
        self.holder.communicate()

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command there, whatever it answers."""
        inside = ["nsenter", "--net", "--mount", "--target", str(self.holder.pid)]
        return subprocess.run(
            [*inside, *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )

    def run(self, *words: str) -> str:
        """The output of a command that works there."""
        done = self.ask(*words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout.strip()

    def docker(self, *words: str) -> str:
        return self.run("docker", *words)

    def dockerd(self, *words: str, through: tuple[str, ...] = ()) -> tuple[int, str]:
        """The exit status of ``dockerd.sh``, and all that it said."""
        done = self.ask(*through, str(SCRIPT), *words)
        return done.returncode, done.stdout + done.stderr

    def start(self, *words: str) -> int:
        """Start the daemon; its pid."""
        code, said = self.dockerd("start", *words)
        assert code == 0, said
        found = re.fullmatch(r"the Docker daemon answers at \S+: pid (\d+), log \S+\n", said)
        assert found, said
        return int(found[1])

    def wait(self, name: str, *options: str) -> int:
        """Start a container that waits; the pid of its first process on this machine."""
        if IMAGE not in self.docker("images", "--format", "{{.Repository}}"):
            self.docker("import", str(small_system(self.folder)), IMAGE)
        self.docker("run", "--detach", "--name", name, *options, IMAGE, *WAITING)
        return int(self.docker("inspect", "--format", "{{.State.Pid}}", name))

    def facts(self) -> dict[str, list[str]]:
        """What a user would compare before and after."""
        mounts = (line.split()[4] for line in self.run("cat", "/proc/self/mountinfo").splitlines())
        return {
            "rules": rules(self.run("iptables-save")),
            "links": sorted(re.findall(r"^\d+: ([^:@]+)", self.run("ip", "-o", "link"), re.M)),
            "routes": self.run("ip", "route").splitlines(),
            "forwarding": [self.ask("cat", f"/proc/sys/net/{n}").stdout for n in FORWARDING],
            # Those of other daemons come and go.
            "mounts": sorted(m for m in mounts if m.startswith((str(self.folder), "/sys"))),
        }

    def left(self) -> list[str]:
        """What there is of processes and files of a daemon, besides its images."""
        sockets = [name for name in ("state", "docker.sock") if (self.folder / name).exists()]
        return living(self.folder) + sockets


def words_of(process: psutil.Process) -> list[str]:
    """Its command line, or none if it has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def rules(saved: str) -> list[str]:
    """Chains and rules of iptables-save; an empty table that allows all is as good as none."""
    found: list[str] = []
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line
        elif line.startswith("-") or (line.startswith(":") and " ACCEPT " not in line):
            found.append(f"{table} {line.split(' [')[0]}")
    return sorted(found)


def small_system(folder: Path) -> Path:
    """A tar of a shell, two programs and the libraries that they name."""
    archive = folder / "system.tar"
    files: dict[str, Path] = {}
    for name in ("sh", "sleep", "cat"):
        program = Path(shutil.which(name) or name)
        linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
        files[f"bin/{name}"] = program.resolve()
        for library in re.findall(r"(/\S+)", linked.stdout):
            files[library.lstrip("/")] = Path(library).resolve()
    with tarfile.open(archive, "w") as tar:
        for place, file in files.items():
            tar.add(file, place)
    return archive
