"""A gateway's records in a real InfluxDB."""

from __future__ import annotations

import pytest

from tests.engines_influx import MISSING, influx_binary, running_influx
from tests.gateway_process import call, running_gateway, running_mock, until

CONFIG = """\
[[upstream]]
name = "mock"
url = "{mock}"
[policy.default]
mode = "enforce"
[[policy.default.limits]]
per = "user"
requests = 8
window = "1h"
"""
CANARY = "canary-prompt-0451"
KEY = "sk-canary-key"


@pytest.fixture(scope="module", name="started")
def _started():
    binary = influx_binary()
    if binary is None:
        pytest.skip(MISSING)
    with running_influx(binary) as running:
        yield running


@pytest.fixture(scope="module")
def mock():
    with running_mock() as running:
        yield running


@pytest.fixture
def server(started):
    """A server with an empty database."""
    started.query("DROP MEASUREMENT tidegate_requests")
    return started


def ask(gateway, times, user="alice"):
    body = {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": CANARY}],
    }
    for _ in range(times):
        call("POST", f"{gateway.url}/v1/chat/completions", body, key=f"{KEY}-{user}")


def test_every_record_is_a_point(server, mock):
    """Every record, refused requests included, is a point with its tokens and cost, and
    no prompt or key is stored.
    """
    # Continues the [events] table, with which the test gateway's file ends.
    sink = f'influx = {{ url = "{server.url}", bucket = "llm" }}\n'
    with running_gateway(sink + CONFIG.format(mock=mock.url)) as gateway:
        ask(gateway, 10)
        sums = (
            "SELECT count(status) AS n, sum(total_tokens) AS t FROM tidegate_requests"
        )
        until(lambda: (server.query(sums) or [{"n": 0}])[0]["n"] == 10)
        rows = server.query(f"{sums} GROUP BY action, status_class")
        until(lambda: len(gateway.records()) == 10)
        records = gateway.records()
        until(lambda: gateway.status()["records"]["influx"]["written"] == 10)
        name = 'tidegate_influx_records_total{result="written"}'
        until(lambda: gateway.metrics().get(name) == 10)
    found = {(row["action"], row["status_class"]): row["n"] for row in rows}
    assert found == {("allow", "2xx"): 8, ("limit", "4xx"): 2}
    tokens = sum(record["total_tokens"] for record in records)
    assert sum(row["t"] for row in rows) == tokens > 0
    stored = str(server.query("SELECT * FROM tidegate_requests"))
    assert CANARY not in stored
    assert KEY not in stored
    usd = sum(row["usd"] for row in server.query("SELECT usd FROM tidegate_requests"))
    assert usd == pytest.approx(sum(record["usd"] for record in records))


def test_series_do_not_grow_with_clients(server, mock):
    """The number of series does not depend on the number of clients."""
    sink = f'influx = {{ url = "{server.url}", bucket = "llm" }}\n'
    with running_gateway(sink + CONFIG.format(mock=mock.url)) as gateway:
        for number in range(12):
            ask(gateway, 1, f"user-{number}")
        count = "SELECT count(status) AS n FROM tidegate_requests"
        until(lambda: (server.query(count) or [{"n": 0}])[0]["n"] == 12)
    assert len(server.query("SHOW SERIES")) == 1


def test_records_wait_for_a_server_that_is_away(server, mock):
    """While the server is down requests are served, and all records are written when it
    is up.
    """
    server.stop()
    sink = f'influx = {{ url = "{server.url}", bucket = "llm" }}\n'
    with running_gateway(sink + CONFIG.format(mock=mock.url)) as gateway:
        ask(gateway, 5)
        until(lambda: gateway.status()["records"]["influx"]["error"])
        until(lambda: "influx_write_failed" in gateway.log())
        server.start()
        count = "SELECT count(status) AS n FROM tidegate_requests"
        until(lambda: (server.query(count) or [{"n": 0}])[0]["n"] == 5)
        until(lambda: gateway.status()["records"]["influx"]["written"] == 5)
        assert gateway.status()["records"]["influx"]["dropped"] == 0
