"""A real Prometheus scrapes a real gateway and notifies a real Alertmanager."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import re
import shutil
import subprocess
import tempfile
import urllib.parse
from pathlib import Path

import pytest
import yaml

from tests.gateway_process import (
    REPOSITORY,
    call,
    running_gateway,
    running_mock,
    until,
)
from tests.ports import free_port
from tests.words import WORDS

DEPLOY = REPOSITORY / "deploy"
CONFIG = """\
[[upstream]]
name = "mock"
url = "{url}"
[policy.default]
mode = "enforce"
limits = [{{ per = "user", requests = 5, window = "1h" }}]
"""
CHANCE = random.Random(5)
SERVERS = ("prometheus", "prometheus-alertmanager")
pytestmark = [
    pytest.mark.skipif(
        not all(map(shutil.which, SERVERS)),
        reason="no prometheus and prometheus-alertmanager on PATH",
    ),
]


class Monitoring:
    """Prometheus and Alertmanager that monitor a gateway."""

    def __init__(self, folder: Path, gateway) -> None:
        self.gateway = gateway
        self._ports = [free_port() for _ in range(2)]
        self.prometheus, self.alertmanager = (
            f"http://127.0.0.1:{port}" for port in self._ports
        )
        self._children = []
        self._folder = folder

    def start(self):
        self._write()
        address, alerts = (f"127.0.0.1:{port}" for port in self._ports)
        self._run(
            "prometheus",
            f"--config.file={self._folder}/prometheus.yml",
            f"--storage.tsdb.path={self._folder}/tsdb",
            f"--web.listen-address={address}",
        )
        self._run(
            "prometheus-alertmanager",
            f"--config.file={DEPLOY}/alertmanager/alertmanager.yml",
            f"--storage.path={self._folder}/alerts",
            f"--web.listen-address={alerts}",
            "--cluster.listen-address=",
        )
        for url in (self.prometheus, self.alertmanager):
            until(lambda url=url: self._is_ready(url), 60.0, url)

    def _run(self, *argv):
        with (self._folder / f"{argv[0]}.log").open("wb") as log:
            self._children.append(
                subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT)
            )

    def _is_ready(self, url):
        with contextlib.suppress(OSError):
            return call("GET", f"{url}/-/ready")[0] == 200
        return False

    def _write(self):
        """Write the files of deploy/ with shorter intervals, no ``for`` and the test's
        addresses.
        """
        config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        target = self.gateway.admin.partition("//")[2]
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
        told = config["alerting"]["alertmanagers"][0]["static_configs"][0]
        told["targets"] = [f"127.0.0.1:{self._ports[1]}"]
        rules = (DEPLOY / "prometheus/rules.yaml").read_text()
        rules = re.sub(r"^ +(for|interval): .*\n", "", rules, flags=re.MULTILINE)
        (self._folder / "rules.yaml").write_text(rules)
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    def stop(self):
        for child in self._children:
            child.kill()
            child.wait()

    def query(self, expr):
        """Current samples of an expression."""
        asked = urllib.parse.urlencode({"query": expr})
        status, _, body = call("GET", f"{self.prometheus}/api/v1/query?{asked}")
        answer = json.loads(body)
        assert status == 200, (expr, answer)
        return answer["data"]["result"]

    def alerts(self):
        """Names of the alerts in Alertmanager, with their receivers."""
        found = json.loads(call("GET", f"{self.alertmanager}/api/v2/alerts")[2])
        return {
            alert["labels"]["alertname"]: [to["name"] for to in alert["receivers"]]
            for alert in found
        }


@pytest.fixture(scope="module")
def watch():
    with (
        tempfile.TemporaryDirectory(prefix="tg-prom-", dir="/tmp") as folder,
        running_mock() as mock,
        running_gateway(CONFIG.format(url=mock.url)) as gateway,
    ):
        watch = Monitoring(Path(folder), gateway)
        watch.mock = mock
        try:
            watch.start()
            until(lambda: watch.query("tidegate_workers_ready == 1"), why="a scrape")
            yield watch
        finally:
            watch.stop()


def ask(gateway, times, key="sk-some"):
    for _ in range(times):
        # Prompts differ, so that no client is classified as a scraper.
        said = " ".join(CHANCE.choices(WORDS, k=CHANCE.randint(8, 40)))
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": said}]}
        call("POST", f"{gateway.url}/v1/chat/completions", body, key=key)


def test_prometheus_sums_equal_those_of_the_records(watch):
    """Requests, tokens and cost in Prometheus equal the sums of the records."""
    ask(watch.gateway, 8)
    records = watch.gateway.records
    until(lambda: len(records()) >= 8)
    sums = {
        "sum(tidegate_requests_total)": lambda: len(records()),
        'sum(tidegate_requests_total{action="limit"})': lambda: len(
            records(action="limit")
        ),
        'sum(tidegate_tokens_total{kind=~"prompt|completion"})': lambda: sum(
            record["total_tokens"] for record in records()
        ),
        "tidegate_usd_total": lambda: sum(record["usd"] for record in records()),
    }

    def same(expr: str) -> bool:
        found = watch.query(expr)
        expected = sums[expr]()
        return (
            expected > 0
            and bool(found)
            and float(found[0]["value"][1]) == pytest.approx(expected)
        )

    for expr in sums:
        until(lambda expr=expr: same(expr), why=expr)


# Queries that have no samples in a healthy gateway.
SILENT = re.compile(
    r"incidents_total|alerts_total|observed_actions|unpriced|turned_away_total"
    r"|spans_total|influx_records|restarts_total|outcome!=\"ok\""
)


def test_every_query_of_every_board_is_answered(watch):
    """Prometheus accepts every query of every board, and each has samples unless it is
    in `SILENT`.
    """
    asked = 0
    visitors = (f"sk-{number}" for number in itertools.count())

    def shown(expr: str) -> bool:
        """Whether the query has samples; sends traffic if not, as a new counter needs
        two scrapes.
        """
        if watch.query(expr) or SILENT.search(expr):
            return True
        ask(watch.gateway, 7, next(visitors))
        return False

    for path in sorted((DEPLOY / "grafana/boards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                expr = target["expr"]
                for name, value in (
                    ("$job", ".+"),
                    ("$instance", ".+"),
                    ("$__rate_interval", "1m"),
                    ("$__range", "1h"),
                ):
                    expr = expr.replace(name, value)
                why = f"{panel['title']}: {expr}"
                until(lambda expr=expr: shown(expr), why=why)
                asked += 1
    assert asked > 40


def test_a_fault_reaches_the_receiver(watch):
    """A refused configuration fires an alert that Alertmanager routes to the team, and
    ends with the correction.
    """
    good = watch.gateway.config_file.read_text()
    watch.gateway.config_file.write_text(good + "\n[nonsense]\n")
    call("POST", f"{watch.gateway.admin}/api/v1/reload")
    until(lambda: "TidegateConfigRefused" in watch.alerts(), 60.0, "the alert")
    assert watch.alerts()["TidegateConfigRefused"] == ["team"]
    watch.gateway.config_file.write_text(good)
    call("POST", f"{watch.gateway.admin}/api/v1/reload")
    firing = 'ALERTS{alertname="TidegateConfigRefused"}'
    until(lambda: not watch.query(firing), why="the end of it")


def test_a_healthy_gateway_fires_no_alert(watch):
    """Ordinary traffic fires no rule, except those of the other tests here and of
    slowness on a loaded machine.
    """
    ask(watch.gateway, 2)
    others = "TidegateConfigRefused|TidegateRefusesMuch|TidegateSlow"
    until(lambda: watch.query(f'ALERTS{{alertname!~"{others}"}}') == [])
