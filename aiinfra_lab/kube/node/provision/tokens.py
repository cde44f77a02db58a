"""Tokens of service accounts for pods, by TokenRequest, renewed before they expire."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from aiinfra_lab.clock import Clock, SystemClock
from aiinfra_lab.kube.node.api import ApiAway, ApiError
from aiinfra_lab.kube.node.problems import VolumeProblem
from aiinfra_lab.kube.node.provision.sources import ApiCalls

Object = dict[str, Any]
# The kubelet's: 80 % of its life, at most a day, less up to ten seconds, so that the tokens of
# pods that started together are not renewed together.
_FRESH, _LONGEST, _JITTER_S = 0.8, timedelta(days=1), 10.0
_USUAL_S = 3600

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Token:
    text: str
    renew_at: datetime
    expires_at: datetime


class Tokens:
    """The tokens of the pods of one node.

    Parameters
    ----------
    api : ApiCalls
        Who grants them.
    clock : Clock, optional
        Whether a token is valid is asked of the wall clock, as the API server asks.
    draw : random.Random, optional
        Where the jitter comes from.
    """

    def __init__(
        self, api: ApiCalls, *, clock: Clock | None = None, draw: random.Random | None = None
    ) -> None:
        self._api, self._clock = api, clock or SystemClock()
        self._draw = draw or random.Random()
        self._tokens: dict[tuple[str, str, int], _Token] = {}

    async def token(self, pod: Object, *, audience: str = "", seconds: int | None = None) -> str:
        """A token that says who ``pod`` is, and ends with it.

        The old one is given for as long as it is valid and no new one can be had.

        Parameters
        ----------
        pod : dict
            The pod.
        audience : str
            For whom; by default the API server.
        seconds : int, optional
            How long it is to be valid; an hour by default.

        Raises
        ------
        VolumeProblem
            It cannot be had.
        """
        life = seconds or _USUAL_S
        key = (pod["metadata"]["uid"], audience, life)
        old, now = self._tokens.get(key), self._clock.now()
        if old and now < old.renew_at:
            return old.text
        try:
            new = await self._request(pod, audience, life, now)
        except (ApiError, ApiAway) as error:
            if old and now < old.expires_at:
                _log.warning("a token of pod %s is not renewed: %s", pod["metadata"]["name"], error)
                return old.text
            raise VolumeProblem(f"failed to fetch token: {error}") from None
        self._tokens[key] = new
        return new.text

    def forget(self, uid: str) -> None:
        """Drop the tokens of a pod."""
        self._tokens = {key: token for key, token in self._tokens.items() if key[0] != uid}

    async def _request(self, pod: Object, audience: str, life: int, now: datetime) -> _Token:
        metadata = pod["metadata"]
        account = pod["spec"].get("serviceAccountName") or "default"
        answer = await self._api.create(
            f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/{account}/token",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {
                    "audiences": [audience] if audience else [],
                    "expirationSeconds": life,
                    "boundObjectRef": {
                        "apiVersion": "v1",
                        "kind": "Pod",
                        "name": metadata["name"],
                        "uid": metadata["uid"],
                    },
                },
            },
        )
        granted = answer.get("status", {})
        expires_at = datetime.fromisoformat(granted["expirationTimestamp"])
        fresh = min((expires_at - now) * _FRESH, _LONGEST)
        jitter = timedelta(seconds=self._draw.uniform(0, _JITTER_S))
        return _Token(granted["token"], now + fresh - jitter, expires_at)
