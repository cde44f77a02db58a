"""A container's environment and command, expanded as Kubernetes expands them.

``$(NAME)`` is the value of a variable that stands before it, ``$$`` is a dollar sign, and what
names no variable stays as it is. As since Kubernetes 1.34, every key of an ``envFrom`` becomes a
variable, also one that a shell could not name; only what no environment can hold is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiinfra_lab.kube.node.problems import ConfigProblem
from aiinfra_lab.kube.node.provision.fields import field_text, resource_text
from aiinfra_lab.kube.node.provision.sources import Source, Sources

Object = dict[str, Any]
_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` by the variable and ``$$`` by ``$``; leave the rest.

    Follows k8s.io/kubernetes' ``third_party/forked/golang/expansion``. What a variable holds is
    not expanded again.

    Examples
    --------
    >>> expand("$(A) $$(A) $(B) $A", {"A": "1"})
    '1 $(A) $(B) $A'
    """

    def value(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else variables.get(found[1], found[0])

    return _REFERENCE.sub(value, text)


def expand_strictly(text: str, variables: Mapping[str, str]) -> str:
    """The same for a ``subPathExpr``, where a variable that is missing or empty is an error.

    Raises
    ------
    ConfigProblem
        One is.
    """
    names = {found[1] for found in _REFERENCE.finditer(text) if found[0] != "$$"}
    if missing := sorted(name for name in names if not variables.get(name)):
        raise ConfigProblem(f"missing value for {', '.join(missing)}")
    return expand(text, variables)


@dataclass(frozen=True)
class Environment:
    """Makes the variables of one pod's containers.

    Parameters
    ----------
    sources : Sources
        The ConfigMaps and Secrets.
    capacity : mapping
        The node's, as its status shows it: what a missing limit stands for.
    pod : dict
        The pod.
    ip : str
        Its address.
    """

    sources: Sources
    capacity: Mapping[str, str]
    pod: Object
    ip: str

    async def variables(self, container: Object, given: Mapping[str, str]) -> dict[str, str]:
        """What the pod's author declares, and what is ``given`` besides and may be referred to.

        The container's ``env`` goes before its ``envFrom``, and both before ``given``.

        Raises
        ------
        ConfigProblem
            A ConfigMap, a Secret, or a key that is not optional is missing; or a value holds a
            NUL, which no environment can hold.
        """
        read: dict[tuple[str, str], Source | None] = {}
        declared: dict[str, str] = {}
        for entry in container.get("envFrom") or ():
            source = await self._source(entry.get("configMapRef"), entry.get("secretRef"), read)
            if source:
                for key in sorted(source.text):
                    declared[entry.get("prefix", "") + key] = _decode(source, key)
        for entry in container.get("env") or ():
            value: str | None = entry.get("value") or ""
            if value:
                value = expand(value, {**given, **declared})
            elif entry.get("valueFrom"):
                value = await self._referred(entry["valueFrom"], container, read)
            if value is not None:
                declared[entry["name"]] = value
        variables = {**given, **declared}
        for name, text in variables.items():
            if not name or "=" in name or "\0" in name + text:
                raise ConfigProblem(
                    f"the environment variable {name!r} cannot be set",
                    needed="a name without = and a value without NUL",
                )
        return variables

    async def _referred(
        self, reference: Object, container: Object, read: dict[tuple[str, str], Source | None]
    ) -> str | None:
        if field := reference.get("fieldRef"):
            return field_text(self.pod, field["fieldPath"], ConfigProblem, ip=self.ip)
        if resource := reference.get("resourceFieldRef"):
            return resource_text(self.pod, container, resource, self.capacity, ConfigProblem)
        config_map, secret = reference.get("configMapKeyRef"), reference.get("secretKeyRef")
        selector = config_map or secret
        if selector is None:
            raise ConfigProblem(
                f"a variable's value comes from {', '.join(reference)}, which this node cannot read"
            )
        source = await self._source(config_map, secret, read)
        if source is None:
            return None
        if selector["key"] in source.text:
            return _decode(source, selector["key"])
        if selector.get("optional"):
            return None
        raise ConfigProblem(
            f"couldn't find key {selector['key']} in {source.kind} {source.namespace}/{source.name}"
        )

    async def _source(
        self,
        config_map: Object | None,
        secret: Object | None,
        read: dict[tuple[str, str], Source | None],
    ) -> Source | None:
        """What a reference names; None where it is optional and missing. Each is read once."""
        reference = config_map or secret
        if reference is None:
            return None
        kind = "ConfigMap" if config_map else "Secret"
        fetch = self.sources.config_map if config_map else self.sources.secret
        key = (kind, reference["name"])
        if read.get(key) is None:
            # A miss that was optional there may not be optional here.
            read[key] = await fetch(
                self.pod["metadata"]["namespace"],
                reference["name"],
                optional=bool(reference.get("optional")),
                problem=ConfigProblem,
            )
        return read[key]


def _decode(source: Source, key: str) -> str:
    # As the kernel takes them: bytes, which a Secret's value may be in any encoding.
    return source.data[key].decode("utf-8", "surrogateescape")
