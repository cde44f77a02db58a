"""Which image the nodes are made of, and that it is here before kind is asked."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from aiinfra_lab.errors import AIInfraLabError, InputError
from aiinfra_lab.kube.kind.engine import Engine
from aiinfra_lab.kube.kind.node_image.archive import load_archive
from aiinfra_lab.kube.kind.node_image.recipe import Recipe

#: Of the pinned kind's release notes, which have an image for each Kubernetes that it makes; this
#: one is of the minor version that the other providers pin. A tag alone would not say what comes.
NODE_IMAGE = (
    "kindest/node:v1.36.4@sha256:099e049362a1526b2db71494e1947aae99bd16290d7c895f2b7ea312e3cbfaed"
)
NODE_IMAGE_KIND = "v0.33.0"  # the release of kind that the image was built for
_REFERENCE = re.compile(r"[A-Za-z0-9][\w.\-/:]*(@sha256:[0-9a-f]{64})?", re.ASCII)

#: Looks for an image that need not be pulled: its name, or None.
ImagePlace = Callable[[Engine], str | None]


def made_here(engine: Engine) -> str | None:
    """The image that was made on this machine of what this course's node is made of."""
    try:
        tag = Recipe.find().tag
    except (AIInfraLabError, OSError):  # installed without it; nobody has asked for that image
        return None
    return tag if engine.has_image(tag) else None


def archived(engine: Engine) -> str | None:
    """The same image out of the archive in the cache, which is loaded; stderr says so."""
    try:
        recipe = Recipe.find()
        return recipe.tag if load_archive(engine, recipe) else None
    except (AIInfraLabError, OSError):
        return None


#: Where to look, in order, before ``NODE_IMAGE`` is taken.
IMAGE_PLACES: tuple[ImagePlace, ...] = (made_here, archived)


def choose_image(
    engine: Engine, wished: str | None, places: Sequence[ImagePlace] = IMAGE_PLACES
) -> str:
    """The node image: the one wished for, else one of ``places``, else ``NODE_IMAGE``.

    Raises
    ------
    InputError
        What is wished for is no image's name.
    """
    if wished is not None:
        return checked_image(wished)
    return next((found for place in places if (found := place(engine))), NODE_IMAGE)


def checked_image(name: str) -> str:
    """``name``, which is handed to a command and must not be read as one of its options.

    Raises
    ------
    InputError
        It is no image's name.
    """
    if not _REFERENCE.fullmatch(name):
        raise InputError(f"{name!r} is no image", needed="name:tag, or name:tag@sha256:digest")
    return name


def is_pinned(image: str) -> bool:
    """Whether the name says by digest which image it is."""
    return "@sha256:" in image
