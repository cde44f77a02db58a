"""The cases, and what a provider can do."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiinfra_lab import needs
from aiinfra_lab.kube.kind.config import environment_folders

from .namespace import Namespace

#: What not every cluster has, by provider; a case that wants more is skipped.
#: gpus: two at least. cuda: they are told by CUDA_VISIBLE_DEVICES. users: other ones than the
#: node's own. environment: a pod can have the packages of this environment. claims: their data
#: lies in one folder of this machine. network: pods have one of their own, with Services, and
#: there are two nodes. containers: nodes are containers of this machine.
CAPABILITIES = {
    "local": {"gpus", "cuda", "environment", "claims"}
    | ({"users"} if os.geteuid() == 0 else set()),
    "kind": {"gpus", "users", "claims", "network", "containers"}
    | (set() if environment_folders()[1] else {"environment"}),
    "existing": {"users"},
}

Body = Callable[[Namespace], Awaitable[None]]


@dataclass(frozen=True)
class Case:
    """One thing that a cluster does."""

    name: str
    body: Body
    needs: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()


CASES: dict[str, Case] = {}


def lacking(case: Case, provider: str) -> str:
    """Why a case cannot run here; empty if it can."""
    if missing := set(case.wants) - CAPABILITIES[provider]:
        return f"the provider {provider} has no {', '.join(sorted(missing))}"
    return needs.verdict(case.needs)[1] if case.needs else ""


def case(*, needs: tuple[str, ...] = (), wants: tuple[str, ...] = ()) -> Callable[[Body], Body]:
    """Enter a coroutine function among the cases.

    ``needs`` are names of ``aiinfra_lab.needs``, about this machine; ``wants`` are names of
    ``CAPABILITIES``, about the provider.
    """

    def enter(body: Body) -> Body:
        name = f"{body.__module__.rpartition('.')[2]}-{body.__name__}"
        assert name not in CASES, name
        CASES[name] = Case(name, body, needs, wants)
        return body

    return enter
