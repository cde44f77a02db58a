"""HTML pages that may be opened anywhere: one file, no script, nothing loaded, nothing trusted.

Three walls stand around a stranger's text: it is escaped by the template engine, made visible
(``escapes``) in every expression whether or not the template's author thought of it, and a policy
in the page forbids scripts, remote loads and any style but the page's own, by its digest.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from aiinfra_lab.grading.escapes import cut, visible

# No expression prints more than this; what is expected to be long is cut before, and says so.
_MOST_CHARACTERS = 2_000


def page(template: str, *, style: str = "", **values: Any) -> str:
    """The page that ``template`` makes of ``values``; ``style`` is added to the common one."""
    css = _template_text("page.css") + style
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    text = _environment().get_template(template).render(css=Markup(css), policy=policy, **values)
    return text + "\n"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_final,
    )
    environment.filters |= {"cut": cut, "number": number}
    return environment


def _final(value: object) -> object:
    """What every expression goes through before it is escaped."""
    return value if isinstance(value, Markup) else visible(cut(str(value), _MOST_CHARACTERS))


def when(moment: datetime) -> str:
    """A moment to the minute, in UTC where its zone is known."""
    if moment.tzinfo is None:
        return f"{moment:%Y-%m-%d %H:%M}"
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def number(value: float, digits: int = 1) -> str:
    """A number as people write it: ``3``, not ``3.0``; ``3.5``, not ``3.50``."""
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@cache
def _template_text(name: str) -> str:
    # One kind of line end: the digest in the policy is over what the browser reads.
    folder = resources.files(__package__).joinpath("templates")
    return folder.joinpath(name).read_text("utf-8").replace("\r\n", "\n")
