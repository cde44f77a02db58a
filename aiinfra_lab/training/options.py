"""The command-line options of a training: one for each field of ``TrainingConfig``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import annotated_types
import typer

from aiinfra_lab.training.config import TrainingConfig


def with_config(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn ``command(config, **own)`` into a command with the options of ``TrainingConfig``.

    Its own parameters come first in ``--help``; each must be keyword-only and annotated.
    """
    hints = get_type_hints(command, localns={"TrainingConfig": TrainingConfig}, include_extras=True)
    own = [
        parameter.replace(annotation=hints[parameter.name])
        for parameter in inspect.signature(command).parameters.values()
        if parameter.name != "config"
    ]
    fields = [_option(name) for name in TrainingConfig.model_fields]

    @functools.wraps(command)
    def with_options(**words: Any) -> Any:
        given = {parameter.name: words.pop(parameter.name) for parameter in own}
        return command(TrainingConfig.of(**words), **given)

    with_options.__signature__ = inspect.Signature([*own, *fields])  # type: ignore[attr-defined]
    with_options.__annotations__ = {p.name: p.annotation for p in (*own, *fields)}
    return with_options


def words_of(config: TrainingConfig) -> list[str]:
    """The command line that gives ``config``; what is as by default is left out."""
    words = []
    for name, field in TrainingConfig.model_fields.items():
        if (value := getattr(config, name)) != field.default:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def _option(name: str) -> inspect.Parameter:
    field = TrainingConfig.model_fields[name]
    low = next((m.ge for m in field.metadata if isinstance(m, annotated_types.Ge)), None)
    assert low is None or isinstance(low, int | float)
    option = typer.Option(help=field.description, min=low, rich_help_panel="Training")
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=field.default,
        annotation=Annotated[field.annotation, option],
    )
