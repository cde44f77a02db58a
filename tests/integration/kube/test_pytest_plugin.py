"""The pytest plugin as another project loads it: in a folder that knows nothing of the course."""

from __future__ import annotations

from typing import Any

import pytest
from leftovers import living

from aiinfra_lab.kube import LocalCluster

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.needs("kube", "kubernetes")

TESTS = """
    import pytest

    SEEN = []

    @pytest.fixture(scope="session")
    def cluster_options():
        return {options}

    @pytest.mark.parametrize("run", [1, 2])
    def test_it(cluster, namespace, run):
        core = cluster.client()
        core.create_namespaced_config_map(namespace, {{"metadata": {{"name": "same"}}}})
        assert core.read_namespaced_service_account("default", namespace)
        SEEN.append((cluster.kubeconfig, namespace))
        print(f"{{cluster.provider}} at {{cluster.kubeconfig}}")

    def test_what_was_seen(cluster):
        (first, one), (second, other) = SEEN
        assert first == second == cluster.kubeconfig
        assert one != other
        for name in (one, other):
            try:
                phase = cluster.client().read_namespace(name).status.phase
            except Exception as error:
                assert error.status == 404
            else:
                assert phase == "Terminating"
"""


def _run(pytester: pytest.Pytester, *words: str, options: str = "{}") -> pytest.RunResult:
    pytester.makepyfile(TESTS.format(options=options))
    plugin = ("-p", "aiinfra_lab.kube.pytest_plugin", "-p", "no:cacheprovider")
    return pytester.runpytest_subprocess(*plugin, "-rP", *words, timeout=250)


def test_a_control_plane_for_a_session_and_a_namespace_for_each_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIINFRA_HOME", str(pytester.path / "home"))
    result = _run(pytester, options='{"flags": {"scheduler": ["-v=3"]}}')
    result.assert_outcomes(passed=3)
    (line, *_) = [line for line in result.outlines if line.startswith("local at ")]
    kubeconfig = pytester.path / line.removeprefix("local at ")
    assert not living(kubeconfig.parent)
    assert not kubeconfig.exists()


def test_options_reach_the_control_plane(pytester: pytest.Pytester) -> None:
    result = _run(pytester, options='{"flags": {"nobody": []}}')
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(["*there is no component 'nobody'*"])


def test_the_same_tests_on_a_cluster_that_exists(
    cluster: LocalCluster, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, home: Any
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    result = _run(pytester, "--kube-provider", "existing")
    result.assert_outcomes(passed=3)
    assert any(line.startswith("existing at ") for line in result.outlines)
    assert cluster.client().list_namespace().items  # it is left running


def test_a_provider_that_there_is_not(pytester: pytest.Pytester) -> None:
    result = _run(pytester, "--kube-provider", "cloud")
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(["*there is no provider 'cloud'*"])
