"""The tour of a cluster on its other provider: the same results, and nothing left of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import kind_tier
import pytest

from aiinfra_lab import needs
from aiinfra_lab.cli.main import run
from aiinfra_lab.course.execution import execute
from aiinfra_lab.course.layout import Course
from aiinfra_lab.course.metadata import read_metadata
from aiinfra_lab.course.notebooks import Notebook, code_cells, read_notebook
from aiinfra_lab.course.parameters import read_parameters, validate
from aiinfra_lab.course.records import records_in
from aiinfra_lab.kube import known_clusters

TOUR = Course(Path(__file__).resolve().parents[2]).chapters / "cluster_tour.ipynb"
#: What names the nodes, how they run pods, and where they are.
OF_THE_PROVIDER = {
    "processes",
    "nodes",
    "the node's container runtime",
    "the node's address",
    "a pod's address begins with",
}


def test_the_tour_gives_the_same_results_on_kind() -> None:
    what, sentence, _ = kind_tier.verdict()
    if what != "run":
        (pytest.skip if what == "skip" else pytest.fail)(sentence)
    stored = read_notebook(TOUR)
    preset = read_metadata(stored, TOUR.name).params["test"]
    chosen = validate(read_parameters(TOUR), {**preset, "provider": "kind"})

    executed = execute(TOUR, chosen)

    local, kind = values(stored), values(executed)
    assert list(kind) == list(local)
    same = local.keys() - OF_THE_PROVIDER
    assert {name: kind[name] for name in same} == {name: local[name] for name in same}
    assert kind["the node's container runtime"] == "containerd"
    assert kind["a pod's address begins with"] == "10"
    control, worker = kind["processes"]
    name = control.removesuffix("-control-plane")
    assert worker == f"{name}-worker"
    assert name not in [place.name for place in known_clusters()]
    words = ["docker", "ps", "--all", "--quiet", f"--filter=label=io.x-k8s.kind.cluster={name}"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == ""


@pytest.mark.needs("kube")
def test_without_a_daemon_it_says_what_gets_one(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    needs.find.cache_clear()

    status = run(["run", str(TOUR), "-p", "provider=kind"])

    assert status == 3
    said = capsys.readouterr().err
    assert said.startswith("aiinfra: this needs kind with a Docker daemon (")
    assert "To get it: " in said
    assert known_clusters() == []


def test_another_provider_is_refused_before_anything_runs(capsys) -> None:
    assert run(["run", str(TOUR), "-p", "provider=minikube"]) == 2
    assert "provider; found 'minikube'; needed one of local, kind" in capsys.readouterr().err


def values(notebook: Notebook) -> dict[str, object]:
    return {
        record.name: record.value
        for cell in code_cells(notebook)
        for record in records_in(cell["outputs"])
    }
