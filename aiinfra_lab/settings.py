"""What a user may configure: environment variables that start with ``AIINFRA_``.

The settings are read at first use, so importing this module reads nothing. An engine's
address that is unset means the embedded engine.
"""

from __future__ import annotations

import json
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from aiinfra_lab.errors import InputError


class Settings(BaseSettings):
    """The course's settings; ``AIINFRA_HOME=/data/course`` sets ``home``, and so on."""

    # An empty variable is an unset one: AIINFRA_HOME= must not mean the working folder.
    model_config = SettingsConfigDict(
        env_prefix="AIINFRA_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    home: Path = Field(
        default_factory=lambda: _user_folder("data"),
        description="state that lasts: clusters, registries",
    )
    cache: Path = Field(
        default_factory=lambda: _user_folder("cache"),
        description="what can be made again: binaries, images",
    )
    scratch_root: Path | None = Field(
        default=None, description="where notebooks write; unset: home/scratch"
    )
    course: Path | None = Field(
        default=None, description="the course's folder; unset: found from the working folder"
    )
    progress: str | None = Field(
        default=None,
        pattern="^(off|plain|rich|notebook)$",
        description="off, plain, rich or notebook; unset: chosen by where the output goes",
    )
    require: str = Field(default="", description="needs, by name, whose absence fails a test")
    browser: str | None = Field(
        default=None, description="Chromium or Chrome for the browser tests; unset: looked for"
    )
    valkey_url: str | None = Field(default=None, description="Redis or Valkey; unset: embedded")
    kafka_servers: str | None = Field(default=None, description="Kafka; unset: embedded")
    s3_url: str | None = Field(default=None, description="S3; unset: embedded")
    mlflow_url: str | None = Field(default=None, description="MLflow server; unset: SQLite")
    artifacts_url: str | None = Field(
        default=None,
        description="where the registry's files go, like s3://bucket/folder; unset: beside SQLite",
    )
    images: Annotated[dict[str, str | dict[str, Any]], NoDecode] = Field(
        default_factory=dict,
        description="what runs a pod's image on a local cluster: a JSON object, from a pattern of "
        "names to python, shell or pause, or to an object of path, command and env",
    )

    @property
    def required_needs(self) -> frozenset[str]:
        """The names in ``AIINFRA_REQUIRE``, separated by blanks or commas."""
        return frozenset(self.require.replace(",", " ").split())

    @field_validator("images", mode="before")
    @classmethod
    def _json_object(cls, value: Any) -> Any:
        # Here, not by pydantic-settings: its error for bad JSON names no variable.
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError(f"it is not JSON ({error})") from None

    @field_validator("home", "cache", "scratch_root", "course")
    @classmethod
    def _whole_path(cls, path: Path | None) -> Path | None:
        # Children run in other folders, and nothing but a shell expands "~".
        return path.expanduser().absolute() if path else path

    def scratch(self, chapter: str) -> Path:
        """An empty-or-existing folder outside the checkout where chapter ``chapter`` writes.

        Raises
        ------
        InputError
            ``chapter`` is no plain name, or the folder cannot be made.
        """
        # clear_scratch() deletes what this names.
        if not chapter or chapter in {".", ".."} or "/" in chapter:
            raise InputError(f"a scratch folder has a plain name, found {chapter!r}")
        folder = (self.scratch_root or self.home / "scratch") / chapter
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{folder} cannot be made: {error.strerror}",
                fix="Set AIINFRA_HOME to a folder that you may write to.",
            ) from None
        return folder

    def clear_scratch(self, chapter: str) -> Path:
        """The same folder, emptied: every run of a chapter begins with nothing."""
        shutil.rmtree(self.scratch(chapter), ignore_errors=True)
        return self.scratch(chapter)


def _user_folder(kind: str) -> Path:
    """The platform's folder for this user; with a read-only home, one in the temporary folder."""
    import tempfile

    import platformdirs

    wanted = platformdirs.user_data_path if kind == "data" else platformdirs.user_cache_path
    folder = wanted("aiinfra")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.gettempdir()) / f"aiinfra-{os.getuid()}" / kind


@cache
def settings() -> Settings:
    """The settings of this process, read from the environment the first time.

    Raises
    ------
    InputError
        A variable holds a value that its setting cannot take.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = f"AIINFRA_{str(first['loc'][0]).upper()}"
        raise InputError(
            f"{name} cannot be used: {first['msg']}", found=repr(first["input"])
        ) from None
