"""What a container is told: environment, ConfigMaps and Secrets, there, missing and optional."""

from __future__ import annotations

import asyncio
import itertools
import json

from .api import Object
from .catalogue import case
from .manifests import (
    SHELL,
    config,
    ended,
    env,
    field,
    is_running,
    key,
    mount,
    phase,
    pod,
    python,
    secret,
    shell,
    state,
    volume,
    waits,
)
from .namespace import Namespace

_SAY = "import json, os; print(json.dumps(dict(os.environ)))"


async def _environment(ns: Namespace, name: str) -> dict[str, str]:
    found = await ns.pod(name, ended)
    assert phase(found) == "Succeeded", ns.story()
    said: dict[str, str] = json.loads(await ns.log(name))
    return said


def _from(source: Object) -> Object:
    return {"valueFrom": source}


@case()
async def environment(ns: Namespace) -> None:
    """Values, what they refer to, the pod's own fields, and whole ConfigMaps and Secrets."""
    variables = env(
        PLAIN="one",
        ESCAPED="$$(PLAIN) $(NOBODY) $",
        LATER="$(TOO_LATE)",
        TOO_LATE="x",
        FROM_MAP=_from(key("configMap", "c", "a")),
        FROM_SECRET=_from(key("secret", "s", "b")),
        REFERS="$(PLAIN), $(FROM_MAP), $(FROM_SECRET), $(a), $(S_b)",
        BOTH="mine",
        NAME=_from(field("metadata.name")),
        NAMESPACE=_from(field("metadata.namespace")),
        UID=_from(field("metadata.uid")),
        LABEL=_from(field("metadata.labels['team']")),
        NODE=_from(field("spec.nodeName")),
        ACCOUNT=_from(field("spec.serviceAccountName")),
        POD_IP=_from(field("status.podIP")),
        HOST_IP=_from(field("status.hostIP")),
    )
    sources = [
        {"configMapRef": {"name": "c"}},
        {"secretRef": {"name": "s"}, "prefix": "S_"},
        {"configMapRef": {"name": "nobody", "optional": True}},
    ]
    container = python(_SAY, env=variables, envFrom=sources)
    await ns.create(
        config("c", a="alpha", BOTH="theirs"),
        secret("s", b="beta"),
        pod("p", container, labels={"team": "red"}),
    )
    said = await _environment(ns, "p")
    found = await ns.get("Pod", "p")
    wanted = {
        "PLAIN": "one",
        "REFERS": "one, alpha, beta, alpha, beta",
        "ESCAPED": "$(PLAIN) $(NOBODY) $",
        "LATER": "$(TOO_LATE)",
        "BOTH": "mine",
        "a": "alpha",
        "S_b": "beta",
        "NAME": "p",
        "NAMESPACE": ns.name,
        "UID": found["metadata"]["uid"],
        "LABEL": "red",
        "NODE": found["spec"]["nodeName"],
        "ACCOUNT": "default",
        "POD_IP": found["status"]["podIP"],
        "HOST_IP": found["status"]["hostIP"],
        "HOSTNAME": "p",
    }
    assert {name: said.get(name) for name in wanted} == wanted
    assert said["KUBERNETES_SERVICE_HOST"]
    assert int(said["KUBERNETES_SERVICE_PORT"])
    # Nothing of whoever started the node: pytest sets this one.
    assert "PYTEST_CURRENT_TEST" not in said
    assert "VIRTUAL_ENV" not in said


@case()
async def resources_in_the_environment(ns: Namespace) -> None:
    """What a container may use, in the unit that it asked for."""

    def of(resource: str, **more: str) -> Object:
        return _from({"resourceFieldRef": {"resource": resource, **more}})

    variables = env(
        MIB=of("limits.memory", divisor="1Mi"),
        BYTES=of("limits.memory"),
        MILLI=of("requests.cpu", divisor="1m"),
        CPUS=of("limits.cpu"),
    )
    limits = {"limits": {"memory": "128Mi", "cpu": "1500m"}, "requests": {"cpu": "50m"}}
    await ns.create(pod("p", python(_SAY, env=variables, resources=limits)))
    said = await _environment(ns, "p")
    found = [said[name] for name in ("MIB", "BYTES", "MILLI", "CPUS")]
    assert found == ["128", str(128 << 20), "50", "2"]


@case()
async def words_of_a_command(ns: Namespace) -> None:
    """command and args take variables too; workingDir is where the program begins."""
    container: Object = {
        "name": "main",
        "image": SHELL,
        "command": ["sh", "-c", 'echo "$0 $1 $(pwd)"'],
        "args": ["$(WHO)", "$$(WHO)"],
        "env": env(WHO="me"),
        "workingDir": "/tmp",
    }
    await ns.create(pod("p", container))
    await ns.pod("p", ended)
    # $(pwd) is the shell's: no variable of that name is known, so it is left as it stands.
    assert await ns.log("p") == "me $(WHO) /tmp\n"


@case()
async def volumes_of_configuration(ns: Namespace) -> None:
    """ConfigMap and Secret as folders, single entries under other names, and a single file."""
    script = """
    cat /c/a /c/long.name /s/b /picked/as/other /one/file
    ls /c /picked | tr '\\n' ' '
    stat -L -c %a /s/b
    """
    container = shell(
        script,
        volumeMounts=[
            mount("c", "/c"),
            mount("s", "/s", readOnly=True),
            mount("picked", "/picked"),
            mount("c", "/one/file", subPath="a"),
        ],
    )
    sources = [
        volume("c", configMap={"name": "c"}),
        volume("s", secret={"secretName": "s", "defaultMode": 0o400}),
        volume("picked", configMap={"name": "c", "items": [{"key": "a", "path": "as/other"}]}),
    ]
    data = {"a": "alpha\n", "long.name": "dotted\n"}
    await ns.create(
        config("c", **data), secret("s", b="beta\n"), pod("p", container, volumes=sources)
    )
    found = await ns.pod("p", ended)
    assert phase(found) == "Succeeded", await ns.log("p")
    text = "alpha\ndotted\nbeta\nalpha\nalpha\n/c: a long.name  /picked: as 400\n"
    assert (await ns.log("p")).split() == text.split()


@case()
async def a_missing_reference(ns: Namespace) -> None:
    """A container that names what is not there waits with the reason, and runs once it is."""
    container = shell("echo $A", env=env(A=_from(key("configMap", "later", "a"))))
    await ns.create(pod("p", container))
    found = await ns.pod("p", lambda found: waits(found) == "CreateContainerConfigError")
    assert phase(found) == "Pending"
    assert 'configmap "later" not found' in state(found, "waiting")["message"]
    await ns.create(config("later", a="at last"))
    await ns.pod("p", lambda found: phase(found) == "Succeeded")
    assert await ns.log("p") == "at last\n"


@case()
async def a_missing_key(ns: Namespace) -> None:
    """As a missing object: the Secret is there, its entry is not."""
    container = shell("echo $A", env=env(A=_from(key("secret", "s", "later"))))
    await ns.create(secret("s", b="x"), pod("p", container))
    found = await ns.pod("p", lambda found: waits(found) == "CreateContainerConfigError")
    assert "couldn't find key later in Secret" in state(found, "waiting")["message"]
    await ns.patch("Secret", "s", {"stringData": {"later": "at last"}})
    await ns.pod("p", lambda found: phase(found) == "Succeeded")
    assert await ns.log("p") == "at last\n"


@case()
async def a_missing_volume(ns: Namespace) -> None:
    """A pod whose volume cannot be filled is not started; an event says why."""
    container = shell("cat /s/a", volumeMounts=[mount("s", "/s")])
    sources = [volume("s", secret={"secretName": "later"})]
    await ns.create(pod("p", container, volumes=sources))
    message = await ns.event("FailedMount", "p")
    assert 'secret "later" not found' in message
    found = await ns.pod("p", lambda found: waits(found) == "ContainerCreating")
    assert phase(found) == "Pending"
    await ns.create(secret("later", a="at last\n"))
    await ns.pod("p", lambda found: phase(found) == "Succeeded")
    assert await ns.log("p") == "at last\n"


@case()
async def optional(ns: Namespace) -> None:
    """What is optional and not there is left out."""
    container = shell(
        'echo "[$A$B]"; ls /c /s; cat /both/a',
        env=env(
            A=_from(key("configMap", "nobody", "a", optional=True)),
            B=_from(key("secret", "s", "nobody", optional=True)),
        ),
        volumeMounts=[mount("c", "/c"), mount("s", "/s"), mount("both", "/both")],
    )
    sources = [
        volume("c", configMap={"name": "nobody", "optional": True}),
        volume("s", secret={"secretName": "nobody", "optional": True}),
        volume(
            "both",
            projected={
                "sources": [
                    {"configMap": {"name": "nobody", "optional": True}},
                    {"secret": {"name": "s"}},
                ]
            },
        ),
    ]
    await ns.create(secret("s", a="alpha\n"), pod("p", container, volumes=sources))
    found = await ns.pod("p", ended)
    assert phase(found) == "Succeeded", await ns.log("p")
    assert (await ns.log("p")).split() == ["[]", "/c:", "/s:", "alpha"]


@case()
async def an_update(ns: Namespace) -> None:
    """A ConfigMap's new contents reach a running pod's volume, and not its environment."""
    script = "until grep -q two /c/a; do sleep 0.2; done; echo $A; ls /c"
    container = shell(
        script,
        env=env(A=_from(key("configMap", "c", "a"))),
        volumeMounts=[mount("c", "/c")],
    )
    await ns.create(
        config("c", a="one", old="x"),
        pod("p", container, volumes=[volume("c", configMap={"name": "c"})]),
    )
    await ns.pod("p", is_running)
    await ns.patch("ConfigMap", "c", {"data": {"a": "two", "old": None, "new": "y"}})
    done = asyncio.create_task(ns.pod("p", lambda found: phase(found) == "Succeeded"))
    looks = itertools.count()
    while ns.provider != "local" and not done.done():
        # Else a kubelet looks once a minute, which would be half of the suite's time.
        await ns.patch("Pod", "p", {"metadata": {"annotations": {"look": str(next(looks))}}})
        await asyncio.wait({done}, timeout=2)
    await done
    assert (await ns.log("p")).split() == ["one", "a", "new"]


@case()
async def downward_volume(ns: Namespace) -> None:
    """The pod's own fields as files; labels with their values quoted."""
    items = [
        {"path": "labels", **field("metadata.labels")},
        {"path": "name", **field("metadata.name")},
        {
            "path": "memory",
            "resourceFieldRef": {
                "containerName": "main",
                "resource": "limits.memory",
                "divisor": "1Mi",
            },
        },
    ]
    container = shell(
        "cat /info/name; echo; cat /info/labels; echo; cat /info/memory",
        volumeMounts=[mount("info", "/info")],
        resources={"limits": {"memory": "128Mi"}},
    )
    sources = [volume("info", downwardAPI={"items": items})]
    await ns.create(pod("p", container, labels={"team": "red"}, volumes=sources))
    found = await ns.pod("p", ended)
    assert phase(found) == "Succeeded", await ns.log("p")
    assert (await ns.log("p")).split() == ["p", 'team="red"', "128"]
