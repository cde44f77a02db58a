"""What a notebook says of itself: the one place where chapters, labs and pages are described."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aiinfra_lab.errors import InputError

KEY = "aiinfra_lab"


class NotebookMetadata(BaseModel):
    """The model of ``metadata.aiinfra_lab``; unknown fields are refused, for they are misspelt."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_version: Literal[1] = Field(alias="schema")
    kind: Literal["chapter", "lab", "page"]
    id: str = Field(pattern=r"^\d\d$|^[a-z][a-z_]*$", description="03, or a page's own name")
    slug: str = Field(pattern=r"^[a-z0-9_]+$")
    title: str
    needs: tuple[str, ...] = Field(default=(), description="names in aiinfra_lab.needs")
    minutes: int = Field(gt=0, description="reading and working time")
    budget_s: float = Field(default=60, gt=0, description="seconds on two cores")
    params: dict[str, dict[str, Any]] = Field(default_factory=dict, description="presets by name")
    answers: tuple[str, ...] = Field(default=(), description="modules that are a lab's answer")
    preload: tuple[str, ...] = Field(default=(), description="what a lab's kernel imports first")
    lang: str = "en"
    release: str = Field(default="", description="digest of the release a submission came from")

    @property
    def stem(self) -> str:
        """The notebook's file name without its ending."""
        return f"{self.id}_{self.slug}" if self.id.isdigit() else self.slug

    @property
    def seed(self) -> int:
        """The public seed: the chapter's number, never chosen after looking."""
        return int(self.id) if self.id.isdigit() else 0


def read_metadata(notebook: dict[str, Any], name: str) -> NotebookMetadata:
    """The metadata of a notebook that is called ``name``.

    Raises
    ------
    InputError
        It has none, or a field of it is wrong; the sentence names the field.
    """
    data = notebook.get("metadata", {}).get(KEY)
    if data is None:
        raise InputError(f"{name} is no notebook of this course", fix=f"It lacks metadata.{KEY}.")
    try:
        return NotebookMetadata.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or KEY
        raise InputError(f"{name}: metadata.{KEY}.{field}: {first['msg']}") from None
