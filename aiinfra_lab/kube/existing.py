"""A cluster that is there already: any context of a kubeconfig, looked at before it is used.

What is asked beforehand, and without changing anything: that somebody answers, that the version
is one the course runs on, and that the account may do what it will have to
(SelfSubjectAccessReview).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from aiinfra_lab.errors import InputError, MissingNeed
from aiinfra_lab.files import write_bytes
from aiinfra_lab.kube.clients import api_client, apply_crds, error_message, kubernetes
from aiinfra_lab.kube.place import Place, Record
from aiinfra_lab.kube.provider import (
    Access,
    Wishes,
    own_record,
    refuse_unmet,
    unknown_cluster,
)

OLDEST = (1, 31)  # a Job's podFailurePolicy is stable from here on
_FILES = {"certificate-authority", "client-certificate", "client-key", "tokenFile"}
_TIMEOUT = {"_request_timeout": (5, 15)}  # seconds to connect, to answer


@dataclass(frozen=True)
class Right:
    """One thing that an account may or may not do, in all namespaces."""

    verb: str
    resource: str
    group: str = ""
    subresource: str = ""

    def __str__(self) -> str:
        resource = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {resource}" + (f"/{self.subresource}" if self.subresource else "")


def _rights(verbs: str, resource: str, group: str = "") -> list[Right]:
    return [Right(verb, resource, group) for verb in verbs.split()]


#: What the operator chapter does on a cluster.
RIGHTS: tuple[Right, ...] = (
    *_rights("create delete get", "namespaces"),
    *_rights("create get patch", "customresourcedefinitions", "apiextensions.k8s.io"),
    *_rights("create delete list patch watch", "jobs", "batch"),
    *_rights("create delete list watch", "pods"),
    Right("get", "pods", subresource="log"),
    *_rights("create delete get patch", "configmaps"),
    *_rights("create delete get", "secrets"),
    *_rights("create delete get", "persistentvolumeclaims"),
    *_rights("create delete", "services"),
    *_rights("create list", "events"),
    *_rights("create delete", "deployments", "apps"),
)


def check_access(
    kubeconfig: str | os.PathLike[str] | None = None,
    context: str | None = None,
    rights: Sequence[Right] = RIGHTS,
) -> str:
    """Ask a cluster whether it can be worked with; give its version.

    Raises
    ------
    InputError
        The kubeconfig cannot be used, or the cluster is too old.
    MissingNeed
        Nobody answers, the account is not let in, or it lacks rights; all of them are named.
    """
    with api_client(kubeconfig, context) as made:
        made.configuration.retries = False
        made.rest_client = kubernetes().client.rest.RESTClientObject(made.configuration)
        version = _version(made)
        if lacking := [right for right in rights if not _allowed(made, right)]:
            raise MissingNeed(
                f"the account at {made.configuration.host} may not: {', '.join(map(str, lacking))}",
                fix="Ask the cluster's owner for these rights, or take another context.",
            )
        return version


def _version(made: Any) -> str:
    found = _ask(made, lambda: kubernetes().client.VersionApi(made).get_code(**_TIMEOUT))
    version = str(found.git_version)
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < OLDEST:
        raise InputError(
            f"the cluster at {made.configuration.host} is too old",
            needed=f"Kubernetes {OLDEST[0]}.{OLDEST[1]} or newer",
            found=version,
        )
    return version


def _allowed(made: Any, right: Right) -> bool:
    package = kubernetes().client
    wanted = {
        "verb": right.verb,
        "resource": right.resource,
        "group": right.group,
        "subresource": right.subresource,
    }
    review = {"spec": {"resourceAttributes": wanted}}
    api = package.AuthorizationV1Api(made)
    answer = _ask(made, lambda: api.create_self_subject_access_review(review, **_TIMEOUT))
    return bool(answer.status.allowed)


def _ask(made: Any, call: Any) -> Any:
    import urllib3

    host = made.configuration.host
    try:
        return call()
    except kubernetes().client.ApiException as error:
        raise MissingNeed(
            f"the cluster at {host} does not let this account in",
            found=error_message(error),
            fix="Renew its credentials, or take another context.",
        ) from None
    except urllib3.exceptions.HTTPError as error:
        raise MissingNeed(
            f"no cluster answers at {host}",
            found=_cause(error),
            fix="Start it, or take another context: kubectl config get-contexts",
        ) from None


def _cause(error: BaseException) -> str:
    """The innermost reason, which is the one that says something."""
    while inner := error.__cause__ or error.__context__ or getattr(error, "reason", None):
        if not isinstance(inner, BaseException):
            break
        error = inner
    return str(getattr(error, "strerror", None) or error)


class ExistingProvider:
    """The provider ``existing``: takes a context of a kubeconfig, and only forgets it again."""

    meets: ClassVar[frozenset[str]] = frozenset({"kubeconfig", "context"})

    def up(self, name: str, wishes: Wishes) -> Access:
        """Check a context and remember it as ``name``; the course's kubeconfig is its copy.

        Raises
        ------
        InputError, MissingNeed
            As ``check_access``; or a wish cannot be met.
        """
        refuse_unmet(wishes, "existing")
        place = Place(name)
        own_record(place, "existing")
        version = check_access(wishes.kubeconfig, wishes.context)
        place.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        url = _copy(wishes.kubeconfig, wishes.context, place.kubeconfig)
        if wishes.crds:
            apply_crds(place.kubeconfig, wishes.crds, wishes.timeout)
        record = Record(
            name=name,
            phase="ready",
            pid=0,
            start_time=0.0,
            keep=True,
            provider="existing",
            url=url,
            version=version,
        )
        place.write(record)
        return Access.to(place, record)

    def down(self, name: str, *, keep: bool = False) -> None:
        """Forget the context; the cluster itself is not ours to end."""
        place = Place(name)
        if own_record(place, "existing") is None:
            raise unknown_cluster(name)
        if not keep:
            place.remove()

    def record(self, name: str) -> Record | None:
        """What is known, with a look whether it still answers."""
        place = Place(name)
        record = place.read()
        if record is not None:
            try:
                record.version = check_access(place.kubeconfig, rights=())
            except (InputError, MissingNeed) as error:
                record.phase, record.sentence = "failed", str(error)
        return record

    def log(self, name: str, component: str) -> Path:
        """None of its components writes here."""
        raise InputError(f"cluster {name} exists elsewhere, and so do the logs of its {component}")


def _copy(kubeconfig: Path | None, context: str | None, target: Path) -> str:
    """Write one context, and nothing else of the user's files, to ``target``; give its URL."""
    import yaml  # type: ignore[import-untyped]

    default = kubernetes().config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION  # joined by colons
    files = [Path(name).expanduser() for name in str(kubeconfig or default).split(os.pathsep)]
    documents = [(path, yaml.safe_load(path.read_text("utf-8"))) for path in files if path.exists()]
    wanted = context or next(d["current-context"] for _, d in documents if d.get("current-context"))
    chosen = _item(documents, "contexts", wanted)
    cluster = _item(documents, "clusters", chosen["context"]["cluster"])
    user = _item(documents, "users", chosen["context"]["user"])
    made = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [cluster],
        "users": [user],
        "contexts": [chosen],
        "current-context": wanted,
    }
    write_bytes(target, yaml.safe_dump(made, sort_keys=False).encode(), mode=0o600)
    return str(cluster["cluster"]["server"])


def _item(documents: list[tuple[Path, Any]], kind: str, name: str) -> dict[str, Any]:
    """The first entry of that name, with the files that it names as absolute paths."""
    for path, document in documents:
        for item in document.get(kind) or ():
            if item["name"] == name:
                inner = dict(item[kind[:-1]])
                for key in _FILES & inner.keys():
                    inner[key] = str(path.absolute().parent / inner[key])
                return {"name": name, kind[:-1]: inner}
    raise InputError(f"the kubeconfig has no entry {name!r} among its {kind}")
