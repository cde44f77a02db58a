"""What the tier ``kind`` needs: programs, a daemon, and images that are here already.

A test pulls nothing and builds nothing: that takes minutes, and many machines cannot.
"""

from __future__ import annotations

from aiinfra_lab import needs
from aiinfra_lab.errors import AIInfraLabError
from aiinfra_lab.kube.kind.engine import Engine
from aiinfra_lab.kube.kind.image import NODE_IMAGE, choose_image
from aiinfra_lab.kube.kind.node_image.recipe import Recipe
from aiinfra_lab.settings import settings

NEEDS = ("kube", "kubernetes", "kubernetes-asyncio", "kind")


def verdict() -> tuple[str, str, tuple[str, ...]]:
    """run, skip or fail; the sentence that says why; and pytest's options."""
    what, sentence = needs.verdict(NEEDS)
    if what != "run":
        return what, sentence, ()
    try:
        sentence, options = images(Engine.find(), Recipe.find().python_tag)
    except AIInfraLabError as error:
        sentence, options = str(error), ()
    if not sentence:
        return "run", "", options
    if "kind" in settings().required_needs:
        return "fail", f"{sentence} (AIINFRA_REQUIRE lists kind)", ()
    return "skip", sentence, ()


def images(engine: Engine, python: str) -> tuple[str, tuple[str, ...]]:
    """The image that is lacking, as a sentence, or the options that name those that are here.

    Who has pulled the nodes' image can pull those of the pods too.
    """
    node = choose_image(engine, None)
    if not engine.has_image(node):
        return "needs a node image. To get it: aiinfra cluster node-image", ()
    if engine.has_image(python):
        return "", ("--kube-node-image", node, "--kube-image", python)
    if node != NODE_IMAGE:
        return f"needs the image {python}. To get it: aiinfra cluster python-image", ()
    return "", ("--kube-node-image", node)
