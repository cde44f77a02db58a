"""Clients of the ``kubernetes`` package, made from a kubeconfig; loaded only when one is wanted."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiinfra_lab.errors import InputError, MissingNeed, ProcessError

_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_LOOK_S = 0.05


def kubernetes() -> Any:
    """The package.

    Raises
    ------
    MissingNeed
        It is not installed.
    """
    try:
        import kubernetes
        import kubernetes.client
        import kubernetes.config
    except ImportError:
        raise MissingNeed(
            "this needs the Python package kubernetes",
            fix="To get it: python -m pip install 'aiinfra-lab[operator]'",
        ) from None
    return kubernetes


def api_client(kubeconfig: str | os.PathLike[str] | None, context: str | None = None) -> Any:
    """An ``ApiClient`` for a kubeconfig's context.

    Raises
    ------
    InputError
        The file cannot be read, or has no such context.
    """
    import yaml  # type: ignore[import-untyped]

    package = kubernetes()
    try:
        made = package.config.new_client_from_config(
            config_file=None if kubeconfig is None else os.fspath(kubeconfig), context=context
        )
    except (package.config.ConfigException, yaml.YAMLError, OSError) as error:
        where = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
        reason = " ".join(str(error).split())
        raise InputError(f"the kubeconfig {where} cannot be used", found=reason) from None
    host = made.configuration.host
    if "//127." in host or "//localhost" in host:
        made.configuration.proxy = None  # a proxy would look for the cluster on its own machine
    return made


def client(
    kubeconfig: str | os.PathLike[str] | None, api: str = "CoreV1Api", context: str | None = None
) -> Any:
    """A client such as ``CoreV1Api`` or ``BatchV1Api``."""
    made = api_client(kubeconfig, context)
    try:
        return getattr(kubernetes().client, api)(made)
    except AttributeError:
        raise InputError(f"the package kubernetes has no {api}") from None


def read_manifests(
    given: Sequence[dict[str, Any] | str | os.PathLike[str]],
) -> list[dict[str, Any]]:
    """Objects as they are, and those of YAML files.

    Raises
    ------
    InputError
        A file cannot be read, is no YAML, or holds something that is no object.
    """
    import yaml

    objects: list[dict[str, Any]] = []
    for item in given:
        if isinstance(item, dict):
            objects.append(item)
            continue
        try:
            documents = list(yaml.safe_load_all(Path(item).read_text("utf-8")))
        except (OSError, UnicodeError) as error:
            raise InputError(f"{item} cannot be read", found=str(error)) from None
        except yaml.YAMLError as error:
            raise InputError(f"{item} is no YAML", found=" ".join(str(error).split())) from None
        for document in documents:
            if document is None:
                continue
            if not isinstance(document, dict) or "kind" not in document:
                raise InputError(f"{item} holds something that is no Kubernetes object")
            objects.append(document)
    return objects


def read_crds(given: Sequence[dict[str, Any] | str | os.PathLike[str]]) -> list[dict[str, Any]]:
    """As ``read_manifests``; everything must be a CustomResourceDefinition."""
    objects = read_manifests(given)
    for item in objects:
        if item.get("kind") != "CustomResourceDefinition":
            raise InputError(
                f"{item.get('kind')} is no CustomResourceDefinition", fix="Apply it afterwards."
            )
        if not isinstance(item.get("metadata"), dict) or "name" not in item["metadata"]:
            raise InputError("a CustomResourceDefinition has no metadata.name")
    return objects


def apply_crds(kubeconfig: Path, crds: Sequence[Any], timeout: float) -> None:
    """Create or replace CustomResourceDefinitions and wait until each is served.

    Raises
    ------
    InputError
        The API server refuses one; its words are in the sentence.
    ProcessError
        One is not established in time.
    """
    wanted = read_crds(crds)
    with api_client(kubeconfig) as made:
        for crd in wanted:
            _create_or_replace(made, crd)
        last = time.monotonic() + timeout
        for crd in wanted:
            name = crd["metadata"]["name"]
            while not _is_established(call(made, "GET", f"{_CRDS}/{name}")[1]):
                if time.monotonic() > last:
                    raise ProcessError(f"the kind {name} was not served within {timeout:g} s")
                time.sleep(_LOOK_S)


def _create_or_replace(made: Any, crd: dict[str, Any]) -> None:
    name = crd["metadata"]["name"]
    status, answer = call(made, "POST", _CRDS, crd)
    if status == 409:
        _, there = call(made, "GET", f"{_CRDS}/{name}")
        version = there.get("metadata", {}).get("resourceVersion")
        body = {**crd, "metadata": {**crd["metadata"], "resourceVersion": version}}
        status, answer = call(made, "PUT", f"{_CRDS}/{name}", body)
    if not 200 <= status < 300:
        raise InputError(
            f"the API server refuses the CustomResourceDefinition {name}",
            found=str(answer.get("message", f"status {status}")),
        )


def _is_established(crd: dict[str, Any]) -> bool:
    # Written in Go: an empty list that was never set comes as null.
    conditions = (crd.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


def call(
    made: Any, method: str, path: str, body: dict[str, Any] | None = None
) -> tuple[int, dict[str, Any]]:
    """One request with an object as it is: status and answer.

    The typed clients refuse, or drop, what their own version of the schema does not know.
    """
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    request = made.param_serialize(
        method, path, header_params=headers, body=body, auth_settings=["BearerToken"]
    )
    answer = made.call_api(*request)
    return int(answer.status), json.loads(answer.read() or b"{}")


def error_message(error: Any) -> str:
    """The API server's own sentence in an ``ApiException``."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"status {error.status} {error.reason}"
