"""When the tier ``kind`` runs, what it is told, and that one line says why it does not.

Docker is a list of images.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import kind_tier
import pytest
import run as tiers

from aiinfra_lab import needs
from aiinfra_lab.errors import MissingNeed
from aiinfra_lab.kube.kind.engine import Engine
from aiinfra_lab.kube.kind.image import NODE_IMAGE
from aiinfra_lab.kube.kind.node_image.recipe import Recipe
from aiinfra_lab.settings import settings

NODE, PYTHON = "node:1", "python:1"
OWN = ("--kube-node-image", NODE, "--kube-image", PYTHON)


class Images:
    """An engine that has these."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def has_image(self, name: str) -> bool:
        return name in self.names


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The images of a machine with all programs; no need is required."""
    names: list[str] = []
    monkeypatch.delenv("AIINFRA_REQUIRE", raising=False)
    settings.cache_clear()
    monkeypatch.setattr(needs, "verdict", lambda names: ("run", ""))
    monkeypatch.setattr(Engine, "find", lambda: Images(*names))
    recipe = SimpleNamespace(tag=NODE, python_tag=PYTHON)
    monkeypatch.setattr(Recipe, "find", lambda: recipe)
    monkeypatch.setattr(kind_tier, "choose_image", _choose)
    yield names
    settings.cache_clear()


def _choose(engine: Any, wished: None) -> str:
    return NODE if engine.has_image(NODE) else NODE_IMAGE


def test_images_made_here_are_named(here: list[str]) -> None:
    here += [NODE, PYTHON]
    assert kind_tier.verdict() == ("run", "", OWN)


def test_nodes_that_were_pulled_pull_for_their_pods(here: list[str]) -> None:
    here += [NODE_IMAGE]
    assert kind_tier.verdict() == ("run", "", ("--kube-node-image", NODE_IMAGE))
    here += [PYTHON]
    options = ("--kube-node-image", NODE_IMAGE, "--kube-image", PYTHON)
    assert kind_tier.verdict() == ("run", "", options)


@pytest.mark.parametrize(
    ("images", "says"),
    [([], "aiinfra cluster node-image"), ([NODE], f"{PYTHON}. To get it: aiinfra cluster python")],
)
def test_nothing_is_pulled_or_built_by_a_test(
    here: list[str], images: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here += images
    what, why, options = kind_tier.verdict()
    assert (what, options) == ("skip", ())
    assert says in why
    monkeypatch.setenv("AIINFRA_REQUIRE", "go kind")
    settings.cache_clear()
    what, why, _ = kind_tier.verdict()
    assert what == "fail"
    assert says in why
    assert "AIINFRA_REQUIRE" in why


def test_what_the_table_of_needs_says_is_taken_over(
    here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def verdict(names: tuple[str, ...]) -> tuple[str, str]:
        asked.extend(names)
        return "fail", "no Docker"

    monkeypatch.setattr(needs, "verdict", verdict)
    assert kind_tier.verdict() == ("fail", "no Docker", ())
    assert {"kind", "kube"} <= set(asked)


def test_a_daemon_that_has_gone_since_is_a_reason(
    here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone() -> None:
        raise MissingNeed("the daemon does not answer", fix="start it")

    monkeypatch.setattr(Engine, "find", gone)
    what, why, _ = kind_tier.verdict()
    assert what == "skip"
    assert "the daemon does not answer" in why


@pytest.mark.parametrize(("what", "is_fine"), [("skip", True), ("fail", False)])
def test_a_tier_that_lacks_something_says_so_once_and_runs_nothing(
    what: str, is_fine: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    tier = tiers.Tier("t", "", pytest=(("nowhere",),), asked=lambda: (what, "no Docker", ()))
    result = tiers._run(tier, [])
    assert (result.ok, result.skipped, result.cases) == (is_fine, int(is_fine), [])
    assert [*result.reasons, *result.broken] == ["t: no Docker"]
    assert "nowhere" not in capfd.readouterr().out
    tiers._report([result], 1.0)
    assert capfd.readouterr().out.count("t: no Docker") == 1
