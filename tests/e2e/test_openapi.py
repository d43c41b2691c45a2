"""The admin API against its own document, by schemathesis."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gateway_process import running_gateway

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("schemathesis") is None, reason="no schemathesis here"
    ),
    pytest.mark.timeout(600),
]


def test_the_api_keeps_its_word(mock, monkeypatch):
    """Generated calls, good and bad: no fault of ours, and answers as documented."""
    monkeypatch.setenv("T", "op")
    config = f'[[upstream]]\nurl = "{mock.url}"\n'
    with running_gateway(config, admin='token = { env = "T" }') as gateway:
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")),
                "run",
                f"{gateway.admin}/api/v1/openapi.json",
                "--header=Authorization: Bearer op",
                "--exclude-path=/api/v1/stream",
                "--exclude-path=/api/v1/session",
                "--phases=examples,coverage,fuzzing",
                "--max-examples=15",
                "--seed=1",
                "--no-color",
                "--request-timeout=60",
                # A subject with nothing standing is a fine 404, a full list a 507.
                "--exclude-checks=positive_data_acceptance",
            ],
            cwd=gateway.directory,
            env=os.environ | {"NO_PROXY": "*"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
