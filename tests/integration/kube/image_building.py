"""The images of ``docker/``, built for a test on the small Debian with Python that is made here."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from aiinfra_lab.errors import AIInfraLabError
from aiinfra_lab.kube.kind.engine import Engine
from aiinfra_lab.kube.kind.image import archived, made_here
from aiinfra_lab.kube.kind.node_image.recipe import Recipe
from aiinfra_lab.settings import settings

ROOT = Path(__file__).parents[3]
# What the Dockerfiles copy, and what says what they may.
PARTS = [".dockerignore", ".gitignore", "LICENSE", "README.md", "aiinfra_lab", "cluster", "docker"]
PARTS += ["pyproject.toml", "requirements.lock", "scripts"]
# Where Debian keeps the certificates that somebody trusts beside the usual ones.
CERTIFICATES = Path("/usr/local/share/ca-certificates")
# An index that somebody has set up for pip must hold in a container that builds too.
INDEXES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")


def python_image() -> str:
    """The small Debian with Python, which the test is skipped without."""
    with contextlib.suppress(AIInfraLabError, OSError):
        tag = Recipe.find().python_tag
        if Engine.find().has_image(tag):
            return tag
    return lack("docker", "no small Debian with Python: aiinfra cluster python-image makes it")


def node_image(config: pytest.Config) -> str:
    """The image for kind's nodes: the one that was named, or made here; else there is no test."""
    named = config.getoption("--kube-node-image", None)
    if isinstance(named, str):
        return named
    with contextlib.suppress(AIInfraLabError, OSError):
        engine = Engine.find()
        if found := made_here(engine) or archived(engine):
            return found
    return lack("kind", "no node image: aiinfra cluster node-image makes it")


def lack(need: str, sentence: str) -> NoReturn:
    """Skip the test, or fail it where AIINFRA_REQUIRE counts on what it stands on."""
    if need in settings().required_needs:
        pytest.fail(f"{sentence} (AIINFRA_REQUIRE lists {need})", pytrace=False)
    pytest.skip(sentence)


def docker(*words: str | Path, said: str | None = None) -> str:
    """The output of a command that works; ``said`` to it."""
    done = subprocess.run(
        ["docker", *words], input=said, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"docker {words[0]}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout.strip()


def write_context(folder: Path) -> Path:
    """A course to build in, with the certificates of this machine in their place."""
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(
                ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            folder.mkdir(exist_ok=True)
            shutil.copy(ROOT / part, folder / part)
    for certificate in CERTIFICATES.glob("*.crt"):
        shutil.copy(certificate, folder / "docker/certificates")
    return folder


@contextlib.contextmanager
def image(context: Path, dockerfile: str, *, base: str, target: str) -> Iterator[str]:
    """Build one stage of a Dockerfile, and remove the image at the end of the block.

    The stages below it go with it only if they have gone by a name: build those around it.
    """
    tag = f"aiinfra-test/{Path(dockerfile).stem}-{target}:{os.getpid()}"
    # The machine's own network: what serves packages here is reached from there for certain.
    words = ["--network", "host", "--build-arg", f"BASE={base}", "--target", target, "--tag", tag]
    for name in INDEXES:
        words += ["--build-arg", name] if name in os.environ else []
    docker("build", "--force-rm", *words, "--file", context / "docker" / dockerfile, context)
    try:
        yield tag
    finally:
        docker("image", "rm", "--force", tag)
