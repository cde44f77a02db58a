"""Programs of others, unmodified: kubectl, a kopf operator, torch."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from aiinfra_lab.processes import Child

from .api import LIMIT_S, LOOK_S, Object, path_of
from .catalogue import case
from .environment import in_environment
from .manifests import ended, field, has_failed, is_complete, is_running, job, python, service, spec
from .namespace import Namespace
from .nodes import two_nodes

_ORDINARY = """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {greeting: hello}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: results}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 16Mi}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: train}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: main
          image: IMAGE
          command: [python, -uc]
          args:
            - |
              import os, time
              for step in range(3):
                  print(os.environ["GREETING"], step)
                  time.sleep(0.3)
              open("/results/done", "w").write("yes")
          env:
            - name: GREETING
              valueFrom: {configMapKeyRef: {name: settings, key: greeting}}
          volumeMounts: [{name: results, mountPath: /results}]
      volumes: [{name: results, persistentVolumeClaim: {claimName: results}}]
"""


@case()
async def kubectl(ns: Namespace) -> None:
    """An ordinary Job from the first command to the last."""
    manifest = ns.scratch / "job.yaml"
    manifest.write_text(_ORDINARY.replace("IMAGE", ns.image))
    said = await ns.kubectl("apply", "-f", str(manifest))
    assert said.splitlines() == [
        "configmap/settings created",
        "persistentvolumeclaim/results created",
        "job.batch/train created",
    ]
    # Of a pod that has no node yet the API server gives an empty log.
    await ns.until(lambda: [pod for pod in ns.there() if is_running(pod) or ended(pod)])
    said = await ns.kubectl("logs", "-f", "job/train")
    assert said == "hello 0\nhello 1\nhello 2\n"
    said = await ns.kubectl("wait", "--for=condition=complete", "job/train", "--timeout=140s")
    assert said == "job.batch/train condition met\n"
    said = await ns.kubectl("get", "pods", "-o", "wide")
    (pod,) = ns.there()
    row = said.splitlines()[1]
    assert "Completed" in row
    assert pod["status"]["podIP"] in row
    assert pod["spec"]["nodeName"] in row
    await ns.event("Started", pod["metadata"]["name"])
    said = await ns.kubectl("describe", "pod", pod["metadata"]["name"])
    for word in ("Exit Code:    0", "GREETING:", "Scheduled", "Pulled", "Created", "Started"):
        assert word in said, said
    assert "1/1" in await ns.kubectl("get", "job", "train")
    said = await ns.kubectl("apply", "-f", str(manifest))
    assert [line.split()[-1] for line in said.splitlines()] == ["unchanged"] * 3
    await ns.kubectl("delete", "-f", str(manifest), "--wait=true", "--timeout=140s")
    assert "No resources found" in await ns.kubectl("get", "jobs,pvc,pods")


_OPERATOR = """
import kopf
import kubernetes

@kopf.on.create("conformance.aiinfra.example", "v1", "{plural}")
def hello(spec, namespace, name, **_):
    kubernetes.config.load_kube_config()
    made = {{
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {{"name": f"hello-{{name}}"}},
        "data": {{"greeting": f"hello {{spec['who']}}"}},
    }}
    kopf.adopt(made)
    kubernetes.client.CoreV1Api().create_namespaced_config_map(namespace, made)
"""


@case(needs=("kopf", "kubernetes"))
async def kopf(ns: Namespace) -> None:
    """An operator that writes a ConfigMap for each resource of its kind."""
    word = ns.name.replace("-", "")
    plural, group = f"{word}s", "conformance.aiinfra.example"
    kind: Object = {
        "type": "object",
        "properties": {
            "spec": {"type": "object", "properties": {"who": {"type": "string"}}},
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
    }
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": kind}}
    names = {"kind": word.capitalize(), "plural": plural, "singular": word}
    crd: Object = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [version]},
    }
    script = ns.scratch / "operator.py"
    script.write_text(_OPERATOR.format(plural=plural))
    crds = path_of("CustomResourceDefinition")
    await ns.api.ask("POST", crds, crd)
    try:
        async with _operator(ns, script):
            path = f"/apis/{group}/v1/namespaces/{ns.name}/{plural}"
            async with asyncio.timeout(LIMIT_S):
                while not await ns.api.find(path):  # until the new kind is served
                    await asyncio.sleep(LOOK_S)
            for who in ("ana", "ben"):
                body = {"metadata": {"name": who}, "spec": {"who": who}}
                about = {"apiVersion": f"{group}/v1", "kind": names["kind"]}
                await ns.api.ask("POST", path, about | body)
            for who in ("ana", "ben"):
                found = await _written(ns, f"hello-{who}")
                assert found["data"] == {"greeting": f"hello {who}"}
                assert found["metadata"]["ownerReferences"][0]["name"] == who
    finally:
        await ns.api.ask("DELETE", f"{crds}/{plural}.{group}")


def _operator(ns: Namespace, script: Path) -> Child:
    words = [sys.executable, "-m", "kopf", "run", "--standalone", f"--namespace={ns.name}"]
    env = {**os.environ, "KUBECONFIG": str(ns.api.kubeconfig)}
    return Child([*words, str(script)], name="kopf", log=ns.scratch / "kopf.log", env=env)


async def _written(ns: Namespace, name: str) -> Object:
    try:
        async with asyncio.timeout(LIMIT_S):
            while not (found := await ns.api.find(path_of("ConfigMap", ns.name, name))):
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        raise AssertionError((ns.scratch / "kopf.log").read_text()) from None
    return found


_TRAIN = """
import json, os
from datetime import timedelta
import torch, torch.distributed as dist

rank, port = int(os.environ["JOB_COMPLETION_INDEX"]), os.environ.get("AIINFRA_JOB_PORT", "29500")
at = f"tcp://{os.environ['JOB']}-0.meet:{port}"
limit = timedelta(seconds=100)
dist.init_process_group("gloo", init_method=at, rank=rank, world_size=2, timeout=limit)
values = torch.tensor([1.0, 10.0]) * (rank + 1)
dist.all_reduce(values)
torch.manual_seed(rank)  # each begins elsewhere, DDP makes them one
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 1, bias=False))
before = model.module.weight.tolist()
model(torch.tensor([[1.0, 10.0]]) * (rank + 1)).sum().backward()
gradient = model.module.weight.grad.tolist()
print(json.dumps([values.tolist(), gradient, before, os.environ["NODE"], torch.__file__]))
dist.barrier()  # who leaves early takes the store from the other
os._exit(0)  # torch may abort in its own end, after everything is done
"""


@case(needs=("torch",), wants=("environment",))
async def torch(ns: Namespace) -> None:
    """Two pods on two nodes train one model with DDP on gloo, with the torch of this machine.

    They meet at a headless Service's name; the tensors and gradients of both are added up.
    """
    env = [
        {"name": "JOB", "valueFrom": field("metadata.labels['batch.kubernetes.io/job-name']")},
        {"name": "NODE", "valueFrom": field("spec.nodeName")},
        {"name": "OMP_NUM_THREADS", "value": "1"},
    ]
    apart = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "train"}},
    }
    template = spec(python(_TRAIN, env=env), subdomain="meet", topologySpreadConstraints=[apart])
    both = {"completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimit": 0}
    await ns.create(
        service("meet", app="train"),
        job("j", in_environment(ns, template), labels={"app": "train"}, **both),
    )
    found = await ns.job("j", lambda found: is_complete(found) or has_failed(found))
    logs = [await ns.log(pod["metadata"]["name"]) for pod in ns.there()]
    assert is_complete(found), logs
    (one, other) = (json.loads(text.splitlines()[-1]) for text in logs)
    for sums, gradient, weights, _, place in (one, other):
        assert sums == [3.0, 30.0]
        assert gradient == [[1.5, 15.0]]
        assert weights == one[2]
        assert Path(place).is_relative_to(sys.prefix)
    assert sorted((one[3], other[3])) == await two_nodes(ns)
