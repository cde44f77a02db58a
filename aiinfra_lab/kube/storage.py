"""Where the data of volume claims lies: in folders of this machine, on every provider made here."""

from __future__ import annotations

from pathlib import Path

#: Where the host-path provisioner makes a folder for each claim; it takes no other place.
CLAIMS = Path("/tmp/hostpath_pv")
STORAGE_CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
#: What a claim without a class gets: a folder of this machine, made and removed by the controllers.
STORAGE_CLASS = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {
        "name": "standard",
        "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
    },
    "provisioner": "kubernetes.io/host-path",
    "reclaimPolicy": "Delete",
    "volumeBindingMode": "Immediate",
}
