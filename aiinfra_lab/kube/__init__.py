"""Kubernetes on any machine: a real control plane as processes, or a cluster that is there.

Examples
--------
>>> from aiinfra_lab.kube import LocalCluster
>>> with LocalCluster("demo") as cluster:  # doctest: +SKIP
...     nodes = cluster.client("CoreV1Api").list_node()
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
