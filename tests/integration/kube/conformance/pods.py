"""What is inside a pod: its containers, their order, its account and its name."""

from __future__ import annotations

from .api import Object
from .catalogue import case
from .manifests import (
    FOREVER,
    ended,
    exit_code,
    is_running,
    mount,
    phase,
    pod,
    python,
    shell,
    state,
    volume,
)
from .namespace import Namespace


@case()
async def shared_folder(ns: Namespace) -> None:
    """Two containers of one pod meet in an emptyDir; each sees it at a path of its own."""
    writer = shell("echo hello > /out/word", "writer", volumeMounts=[mount("work", "/out")])
    script = "until [ -s /in/word ]; do sleep 0.1; done; cat /in/word; echo x > /in/no"
    reader = shell(script, volumeMounts=[mount("work", "/in", readOnly=True)])
    memory = volume("fast", emptyDir={"medium": "Memory", "sizeLimit": "16Mi"})
    other = shell("echo y > /fast/f && cat /fast/f", "other", volumeMounts=[mount("fast", "/fast")])
    await ns.create(pod("p", writer, reader, other, volumes=[volume("work"), memory]))
    found = await ns.pod("p", ended)
    assert (exit_code(found, "writer"), exit_code(found, "other")) == (0, 0)
    assert "hello" in (await ns.log("p")).splitlines()  # nobody promises the order of streams
    assert exit_code(found)  # it may only read
    assert await ns.log("p", "other") == "y\n"


@case()
async def one_after_the_other(ns: Namespace) -> None:
    """Init containers run in order, each to its end, before the others begin."""
    seen = [mount("work", "/both")]
    first = shell("sleep 0.5; echo first >> /both/steps", "first", volumeMounts=seen)
    second = shell("echo second >> /both/steps", "second", volumeMounts=seen)
    main = shell("cat /both/steps", volumeMounts=seen)
    await ns.create(pod("p", main, initContainers=[first, second], volumes=[volume("work")]))
    found = await ns.pod("p", ended)
    assert phase(found) == "Succeeded"
    assert await ns.log("p") == "first\nsecond\n"
    for name in ("first", "second"):
        assert state(found, "terminated", name, init=True)["reason"] == "Completed"
    pending = [v for v in ns.versions("Pod", "p") if state(v, "running", "first", init=True)]
    assert all(phase(v) == "Pending" for v in pending)


_ASK = """
import json, os, ssl, time, urllib.error, urllib.request

folder = "/var/run/secrets/kubernetes.io/serviceaccount"
namespace = open(f"{folder}/namespace").read()
host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
url = f"https://{host}:{port}/api/v1/namespaces/{namespace}/pods"
context = ssl.create_default_context(cafile=f"{folder}/ca.crt")
opener = urllib.request.build_opener(
    urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
)
last = None
while last != 200:
    token = open(f"{folder}/token").read()
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with opener.open(request, timeout=10) as answer:
            found, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        found, text = error.code, error.read()
    if found != last:
        message = json.loads(text).get("message", "")
        print(found, message, flush=True)
    last = found
    time.sleep(0.2)
"""


@case()
async def service_account(ns: Namespace) -> None:
    """A pod calls the API with its account's token: refused without a role, let in with one."""
    account: Object = {"kind": "ServiceAccount", "metadata": {"name": "reader"}}
    await ns.create(account, pod("p", python(_ASK), serviceAccountName="reader"))
    await ns.pod("p", is_running)
    async for line in ns.follow("p"):
        assert line.startswith("403 "), line
        assert f'User "system:serviceaccount:{ns.name}:reader" cannot list' in line
        break
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    group = "rbac.authorization.k8s.io"
    await ns.create(
        {"kind": "Role", "metadata": {"name": "reader"}, "rules": rules},
        {
            "kind": "RoleBinding",
            "metadata": {"name": "reader"},
            "roleRef": {"kind": "Role", "name": "reader", "apiGroup": group},
            "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": ns.name}],
        },
    )
    await ns.pod("p", lambda found: phase(found) == "Succeeded")
    assert [line.split()[0] for line in (await ns.log("p")).splitlines()] == ["403", "200"]


@case()
async def without_a_token(ns: Namespace) -> None:
    """A pod that wants no token gets none."""
    container = shell("ls /var/run/secrets/kubernetes.io/serviceaccount 2>&1 || echo none")
    await ns.create(pod("p", container, automountServiceAccountToken=False))
    await ns.pod("p", ended)
    assert (await ns.log("p")).endswith("none\n")


@case()
async def token_for_somebody_else(ns: Namespace) -> None:
    """A projected token is for the audience that was asked for."""
    script = """
import base64, json
body = open("/tokens/vault").read().split(".")[1]
claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
own = claims["kubernetes.io"]
print(claims["aud"], claims["sub"], own["pod"]["name"], claims["exp"] - claims["iat"])
"""
    token = {"path": "vault", "audience": "vault", "expirationSeconds": 1200}
    source = volume("tokens", projected={"sources": [{"serviceAccountToken": token}]})
    container = python(script, volumeMounts=[mount("tokens", "/tokens")])
    await ns.create(pod("p", container, volumes=[source]))
    found = await ns.pod("p", ended)
    assert phase(found) == "Succeeded", await ns.log("p")
    assert await ns.log("p") == f"['vault'] system:serviceaccount:{ns.name}:default p 1200\n"


@case(wants=("users",))
async def another_user(ns: Namespace) -> None:
    """runAsUser and runAsGroup."""
    container = shell("id -u; id -g", securityContext={"runAsUser": 1234, "runAsGroup": 2345})
    await ns.create(pod("p", container))
    await ns.pod("p", ended)
    assert await ns.log("p") == "1234\n2345\n"


@case()
async def deployment(ns: Namespace) -> None:
    """A Deployment becomes available, is scaled down, and its pods end."""
    labels = {"app": "d"}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [shell(FOREVER)], "terminationGracePeriodSeconds": 2},
    }
    wanted = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    await ns.create({"kind": "Deployment", "metadata": {"name": "d"}, "spec": wanted})
    await ns.kubectl("rollout", "status", "deployment/d", "--timeout=140s")
    assert sum(is_running(found) for found in ns.there()) == 2
    await ns.patch("Deployment", "d", {"spec": {"replicas": 0}})
    await ns.until(lambda: not ns.there())


@case()
async def its_own_name(ns: Namespace) -> None:
    """A pod finds its own address under its own name."""
    script = "import os, socket; print(socket.gethostbyname(os.environ['HOSTNAME']))"
    await ns.create(pod("p", python(script), hostname="chosen"))
    found = await ns.pod("p", ended)
    assert phase(found) == "Succeeded", await ns.log("p")
    assert (await ns.log("p")).strip() == found["status"]["podIP"]
