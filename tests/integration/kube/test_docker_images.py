"""The images of ``docker/`` are really built: what goes into them, and what they are then."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_building import ROOT, docker, image, python_image, write_context

from aiinfra_lab.tls import Authority

# The builder without BuildKit reads neither of them, and not everybody has the other one.
ONLY_BUILDKIT = ("# syntax=", "--mount=", "<<", "--link", "--chmod")
SEEN = """\
import json, os, ssl, subprocess, sys
trusted = ssl.create_default_context(cafile=os.environ["PIP_CERT"]).get_ca_certs()
print(json.dumps({
    "python": sys.version_info[:2],
    "user": subprocess.getoutput("id -un 1000"),
    "home": os.path.isdir("/home/learner"),
    "tools": [subprocess.getstatusoutput(f"{name} --version")[0] for name in ("git", "make")],
    "trusted": [dict(x[0] for x in one["subject"]).get("commonName") for one in trusted],
    "leftovers": os.listdir("/var/lib/apt/lists"),
}))
"""


@pytest.fixture(scope="module")
def base() -> str:
    return python_image()


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_context(tmp_path_factory.mktemp("images") / "course")


@pytest.fixture(scope="module")
def tools(base: str, context: Path) -> Iterator[str]:
    """The lab's first stage, in a network that has a certificate of its own."""
    authority = Authority.create("a network of its own")
    (context / "docker/certificates/network.crt").write_bytes(authority.cert_pem)
    with image(context, "lab.Dockerfile", base=base, target="base") as tag:
        yield tag


@pytest.mark.needs("docker")
def test_the_tools_of_the_lab_are_there_for_a_learner(tools: str) -> None:
    seen = json.loads(docker("run", "--rm", "--network", "none", tools, "python3", "-c", SEEN))
    assert tuple(seen["python"]) in {(3, 11), (3, 12)}
    assert (seen["user"], seen["home"], seen["tools"]) == ("learner", True, [0, 0])
    assert "a network of its own" in seen["trusted"]
    assert len(seen["trusted"]) > 50  # and it is not the only one
    assert seen["leftovers"] == []


@pytest.mark.needs("docker")
def test_nothing_that_git_ignores_goes_into_an_image(base: str, tmp_path: Path) -> None:
    course = write_context(tmp_path / "course")
    lines = (ROOT / ".gitignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    decoys = {Path(".git/config")}
    for pattern in patterns:
        name = pattern.strip("/").replace("*.py[co]", "x.pyc").replace("*", "x")
        # A pattern that says no place is meant everywhere.
        places = ["."] if pattern.startswith("/") else [".", "notebooks/deep"]
        for place in places:
            decoys.add(Path(place, name, "inside" if pattern.endswith("/") else ""))
    for decoy in decoys:
        (course / decoy).parent.mkdir(parents=True, exist_ok=True)
        (course / decoy).write_text("not for an image")
    (course / "kept").write_text("for an image")
    (course / "Dockerfile").write_text(f"FROM {base}\nCOPY . /course\n")
    tag = f"aiinfra-test/context:{tmp_path.parent.name}"
    docker("build", "--force-rm", "--network", "none", "--tag", tag, course)
    try:
        listing = docker("run", "--rm", "--network", "none", tag, "find", "/course", "-type", "f")
    finally:
        docker("image", "rm", "--force", tag)
    there = {Path(line).relative_to("/course") for line in listing.splitlines()}
    assert Path("kept") in there
    assert Path("aiinfra_lab/errors.py") in there
    assert sorted(map(str, decoys & there)) == []


@pytest.mark.parametrize(
    "file", sorted((ROOT / "docker").glob("*.Dockerfile")), ids=lambda p: p.stem
)
def test_a_dockerfile_is_read_by_both_builders_and_stands_on_any_base(file: Path) -> None:
    text = file.read_text()
    assert [word for word in ONLY_BUILDKIT if word in text] == []
    lines = [line.split() for line in text.splitlines() if line.startswith(("ARG", "FROM"))]
    assert lines[0][:1] == ["ARG"]
    assert lines[0][1].startswith("BASE=")
    named = {words[3] for words in lines if words[0] == "FROM" and len(words) > 3}
    assert {words[1] for words in lines if words[0] == "FROM"} - named == {"${BASE}"}


def test_the_services_are_what_compose_understands() -> None:
    asked = ["docker", "compose", "version"]
    if not shutil.which("docker") or subprocess.run(asked, capture_output=True).returncode:
        pytest.skip("docker has no compose here")
    words = ("--file", ROOT / "docker/compose.yaml", "config", "--format", "json")
    (service,) = json.loads(docker("compose", *words))["services"].values()
    assert service["build"]["args"]["BASE"] == "python:3.11-slim"
    assert [port["host_ip"] for port in service["ports"]] == ["127.0.0.1"]
