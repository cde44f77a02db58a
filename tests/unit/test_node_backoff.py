"""The law of the node's waits: a kubelet's numbers, growth, a limit, and forgiveness."""

import pytest
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st

from aiinfra_lab.errors import InputError
from aiinfra_lab.kube.node.backoff import CRASH, IMAGE, Backoff

policies = st.builds(
    lambda first, factor, free: Backoff(first=first, longest=first * factor, free=free),
    st.floats(0.01, 100),
    st.floats(1, 1000),
    st.integers(0, 5),
)


def test_a_crash_is_started_again_at_once_then_after_10_s_doubling_to_300_s():
    assert [CRASH.wait(n) for n in range(1, 9)] == [0, 10, 20, 40, 80, 160, 300, 300]
    assert [IMAGE.wait(n) for n in range(1, 8)] == [10, 20, 40, 80, 160, 300, 300]


@law(deadline=None)
@given(policies, st.integers(0, 10**9))
def test_a_wait_never_shrinks_and_never_passes_its_limit(policy, failures):
    assert policy.wait(failures) <= policy.wait(failures + 1) <= policy.longest
    assert policy.wait(policy.free) == 0
    assert policy.wait(policy.free + 1) == pytest.approx(policy.first)
    assert policy.wait(policy.free + 12) == pytest.approx(min(policy.longest, policy.first * 2**11))


@given(st.integers(0, 100), st.floats(0, 10_000))
def test_only_ten_minutes_of_running_forgive(failures, ran):
    assert CRASH.failed(failures, ran) == (1 if ran >= 600 else failures + 1)


@pytest.mark.parametrize(
    "wrong",
    [{"first": 0}, {"first": 20, "longest": 10}, {"longest": float("inf")}, {"free": -1}],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(InputError, match="back-off"):
        Backoff(**wrong)
