"""The image table: which names a pattern means, what goes first, and what is said of the rest."""

import shutil
import sys
from pathlib import Path

import pytest

from aiinfra_lab.errors import InputError
from aiinfra_lab.kube.node.problems import ImageProblem
from aiinfra_lab.kube.node.provision.images import KINDS, ImageTable
from aiinfra_lab.settings import settings

DIGEST = "@sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        ("python:3.11", "python"),
        ("python", "python"),
        ("python:3.11-slim" + DIGEST, "python"),
        ("docker.io/library/python:3.12", "python"),
        ("library/python:3", "python"),
        ("public.ecr.aws/docker/library/python:3.11", "python"),
        ("aiinfra-lab/operator:dev", "python"),
        ("localhost:5000/aiinfra-lab/operator", "python"),
        ("registry.k8s.io/pause:3.10", "pause"),
        ("busybox", "shell"),
        ("busybox:1.36", "shell"),
        ("docker.io/library/alpine" + DIGEST, "shell"),
        ("debian:bookworm-slim", "shell"),
    ],
)
def test_a_name_means_the_same_with_and_without_its_registry(image, kind):
    assert ImageTable({}).find(image) == KINDS[kind]


@pytest.mark.parametrize(
    "image", ["python:2.7", "acme/python:3.11", "busybox-extras:1", "nginx", "library/x", ""]
)
def test_an_unknown_image_is_a_problem_that_names_the_setting(image):
    with pytest.raises(ImageProblem, match="AIINFRA_IMAGES") as problem:
        ImageTable({}).find(image)
    assert f'"{image}"' in str(problem.value)


def test_the_own_table_goes_first_and_its_longer_patterns_before_the_others():
    table = ImageTable(
        {
            "ghcr.io/*": "shell",
            "ghcr.io/acme/train:*": {"path": ["/opt/bin"], "env": {"A": "1"}},
            "python:3*": "pause",
            "acme/eval": "python",
        }
    )
    found = table.find("ghcr.io/acme/train:1")
    assert found.search_path.startswith("/opt/bin:/")
    assert found.env == {"A": "1"}
    assert found.command == ("sh",)
    assert table.find("ghcr.io/acme/other:1") == KINDS["shell"]
    assert table.find("docker.io/library/python:3.11") == KINDS["pause"]
    assert table.find("ghcr.io/acme/eval:v2") == KINDS["shell"]  # the longer one
    assert table.find("quay.io/acme/eval:v2") == KINDS["python"]


def test_without_a_table_the_setting_counts(monkeypatch):
    monkeypatch.setenv("AIINFRA_IMAGES", '{"acme/*": "pause"}')
    settings.cache_clear()
    try:
        assert ImageTable().find("acme/x") == KINDS["pause"]
    finally:
        settings.cache_clear()


def test_a_python_image_is_this_environment():
    image = ImageTable({}).find("python:3.11")
    assert Path(shutil.which("python3", path=image.search_path)) == (
        Path(sys.executable).parent / "python3"
    )
    assert image.command == ("python3",)


@pytest.mark.parametrize(
    "entry",
    ["ruby", 3, ["sh"], {"cmd": ["sh"]}, {"command": "sh"}, {"command": []}, {"env": {"A": 1}}],
)
def test_a_bad_entry_is_refused_by_its_pattern(entry):
    with pytest.raises(InputError, match=r"entry for 'acme/\*'"):
        ImageTable({"acme/*": entry})
