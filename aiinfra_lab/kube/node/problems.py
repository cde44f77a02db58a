"""Why a pod cannot run now, in the words that its status shows."""

from __future__ import annotations

from aiinfra_lab.errors import AIInfraLabError


class PodProblem(AIInfraLabError):
    """Something that a pod needs is not there; it is tried again."""

    reason = "ContainerCreating"


class VolumeProblem(PodProblem):
    """A volume cannot be filled or mounted."""


class ConfigProblem(PodProblem):
    """The container's environment or command names something that is not there."""

    reason = "CreateContainerConfigError"


class ImageProblem(PodProblem):
    """Nothing on this machine stands for the image."""

    reason = "ErrImagePull"
