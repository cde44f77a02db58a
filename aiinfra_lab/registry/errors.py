"""What can go wrong with a registry, by name."""

from __future__ import annotations

from aiinfra_lab.errors import AIInfraLabError, InputError, MissingNeed


class RegistryError(AIInfraLabError):
    """The registry answered, and refused or failed."""


class RegistryAway(MissingNeed):
    """The registry does not answer, or is locked; ``kept`` is where a model waits, if one does."""

    kept: str | None = None


class UnknownModel(InputError):
    """There is no model, version or alias of that name."""


class DamagedModel(RegistryError):
    """The bytes that the registry holds are not those that were registered."""
