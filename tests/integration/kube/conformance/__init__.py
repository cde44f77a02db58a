"""Whether a cluster runs training jobs as Kubernetes does: one suite for every provider.

    pytest tests/integration/kube/conformance                       on ``local``
    python tests/run.py kind                                        on containers, two nodes
    pytest ... -p aiinfra_lab.kube.pytest_plugin --kube-provider existing --kube-context NAME

Each case is one coroutine with a namespace of its own. The first test starts the cases of all
tests that were selected, and each test waits for the verdict of its own, so that the suite costs
what its longest case costs. A case that fails does not touch the others.
"""

from __future__ import annotations

from pathlib import Path

import pytest

_MODULES = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
# A failed assertion of a case is to show its values, as a test's does.
pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in _MODULES))
