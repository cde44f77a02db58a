"""Errors keep what they carry: in the sentence, over a pickle, in a copy."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st

from aiinfra_lab.errors import (
    AIInfraLabError,
    InputError,
    MissingNeed,
    NotebookError,
    ProcessError,
)

EXAMPLES = [
    AIInfraLabError("it broke"),
    InputError("bad value", needed="a number", found="'x'", fix="Give a number."),
    MissingNeed("this needs Docker", fix="To get it: apt-get install docker.io"),
    ProcessError("it ended", returncode=-9, tail="last\nlines", fix="Look at the log."),
    NotebookError("a cell failed", cell="flaw-demo", tail="ValueError: x"),
]

ROUTES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle {protocol}": lambda error, protocol=protocol: pickle.loads(
            pickle.dumps(error, protocol)
        )
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


@pytest.mark.parametrize("route", ROUTES.values(), ids=list(ROUTES))
@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_the_border_between_processes(error, route):
    twin = route(error)
    assert type(twin) is type(error)
    assert twin is not error
    assert vars(twin) == vars(error)
    assert str(twin) == str(error)
    assert twin.args == error.args


@pytest.mark.parametrize(
    ("kind", "code"),
    [(AIInfraLabError, 1), (InputError, 2), (MissingNeed, 3), (ProcessError, 1)],
)
def test_exit_codes_are_those_of_the_command_line(kind, code):
    assert kind("x").exit_code == code


text = st.text(min_size=1)


@law(deadline=None)
@given(message=text, needed=st.none() | text, found=st.none() | text, fix=st.none() | text)
def test_the_sentence_says_all_that_is_known(message, needed, found, fix):
    sentence = str(InputError(message, needed=needed, found=found, fix=fix))
    assert sentence.startswith(message)
    assert needed is None or f"needed {needed}" in sentence
    assert found is None or f"found {found}" in sentence
    assert fix is None or sentence.endswith(f". {fix}")


def test_a_sentence_without_fields_is_the_message():
    assert str(InputError("bad value")) == "bad value"


def test_a_process_shows_its_last_lines_below_the_sentence():
    error = ProcessError("it ended", tail="last\nlines", fix="Look.")
    assert str(error) == "it ended. Look.\nlast\nlines"
