"""``cluster node-image`` and ``cluster python-image``: images that are made here, not pulled."""

from __future__ import annotations

from typing import Annotated

import typer

AgainOption = Annotated[
    bool, typer.Option("--again", help="Make it even where it is; what is compiled is kept.")
]


def register(group: typer.Typer) -> None:
    """Add this module's commands to the group ``cluster``."""
    for command in (node_image, python_image):
        group.command()(command)


def node_image(
    print_key: Annotated[
        bool,
        typer.Option("--print-key", help="Only print the key over its versions and files."),
    ] = False,
    again: AgainOption = False,
    archive: Annotated[
        bool,
        typer.Option(help="Also keep it as a file in the cache, from which it is loaded in 10 s."),
    ] = True,
) -> None:
    """Have the node image of kind without a registry, and print its name.

    It is made of programs that Go compiles and of Debian's packages, once for each key: about 8
    minutes and 10 GB of disk, as root. A build that was cut off goes on where it was. Of other keys
    the newest image and the newest archive are kept, older ones are removed.

    Example: aiinfra cluster node-image
    """
    if print_key:
        from aiinfra_lab.kube.kind.node_image.recipe import Recipe

        print(Recipe.find().key)
        return
    from aiinfra_lab.kube.kind.node_image.making import make_node_image

    print(make_node_image(again=again, archive=archive))


def python_image(again: AgainOption = False) -> None:
    """Have a small image of Debian with Python, and print its name: a BASE for Dockerfiles.

    It is made of Debian's packages in a minute, as root, and also called aiinfra/python:latest.

    Example: docker build --build-arg BASE=$(aiinfra cluster python-image) .
    """
    from aiinfra_lab.kube.kind.node_image.making import make_python_image

    print(make_python_image(again=again))
