"""Consistency of the files under deploy/: rules, boards, compose, manifests, docs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from gateway import __version__
from gateway.config import load
from tests.gateway_process import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
RULES = DEPLOY / "prometheus/rules.yaml"
BOARDS = sorted((DEPLOY / "grafana/boards").glob("*.json"))
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
METRIC = re.compile(r"\btidegate_[a-z_]+\b")
ENV = {
    "TIDEGATE_ADMIN_TOKEN": "x",
    "INFLUX_TOKEN": "x",
    "TIDEGATE_UPSTREAM__0__URL": "http://llm:8000",
}


def read(path):
    return yaml.safe_load(path.read_text())


def alerts():
    groups = read(RULES)["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def documented():
    """Metric names in the table of docs/operations.md."""
    text = (REPOSITORY / "docs/operations.md").read_text()
    found = set(re.findall(r"^\| `(tidegate_[a-z_]+)", text, re.MULTILINE))
    histograms = {name for name in found if name.endswith("_seconds")}
    return found | {f"{name}_bucket" for name in histograms}


@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool on PATH")
@pytest.mark.parametrize("what", ["rules", "tests", "configuration"])
def test_promtool_accepts_the_files(what):
    """The Prometheus configuration and rules are valid and pass their unit tests."""
    commands = {
        "rules": ["check", "rules", "rules.yaml"],
        "tests": ["test", "rules", "rules_test.yaml"],
        "configuration": ["check", "config", "prometheus.yml"],
    }
    done = subprocess.run(
        ["promtool", *commands[what]],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("amtool"), reason="no amtool on PATH")
def test_amtool_accepts_the_configuration():
    """The Alertmanager configuration is valid."""
    file = DEPLOY / "alertmanager/alertmanager.yml"
    done = subprocess.run(
        ["amtool", "check-config", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_every_alert_has_texts_and_a_runbook(rule):
    """Every alert has a severity, texts, and an existing runbook section."""
    notes = rule["annotations"]
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert notes["summary"]
    assert notes["description"]
    page, _, anchor = notes["runbook"].partition("#")
    headings = re.findall(r"^### (\w+)$", (REPOSITORY / page).read_text(), re.MULTILINE)
    assert anchor in {heading.lower() for heading in headings}


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_every_alert_has_a_unit_test(rule):
    """Every alert occurs in promtool's unit tests."""
    assert rule["alert"] in (DEPLOY / "prometheus/rules_test.yaml").read_text()


@pytest.mark.parametrize("path", [RULES, *BOARDS], ids=lambda path: path.name)
def test_rules_and_boards_use_documented_metrics(path):
    """Every metric in rules and boards is in the table of metrics."""
    unknown = set(METRIC.findall(path.read_text())) - documented()
    assert unknown == set()


def test_boards_are_generated_by_boards_py():
    """The board files equal the output of boards.py."""
    program = DEPLOY / "grafana/boards.py"
    done = subprocess.run(
        [sys.executable, str(program), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_boards_load_in_grafanas_types(path):
    """Grafana's SDK parses each board and keeps its panels."""
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    board = json.loads(path.read_text())
    again = models.Dashboard.from_json(board).to_json()
    assert again["title"] == board["title"]
    assert len(again["panels"]) == len(board["panels"])
    assert {one["name"] for one in board["templating"]["list"]} == {
        "source",
        "job",
        "instance",
    }


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_panels_do_not_overlap(path):
    """Panels of a board do not overlap and fit in 24 columns."""
    taken = set()
    for panel in json.loads(path.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y)
            for x in range(place["w"])
            for y in range(place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_compose_services_are_consistent():
    """Mounted files exist, ports are published on loopback only, and volumes and
    dependencies are declared.
    """
    compose = read(DEPLOY / "compose.yaml")
    services = compose["services"]
    wanted = {"tidegate", "redis", "prometheus", "alertmanager", "grafana", "influxdb"}
    assert set(services) == wanted
    for service in services.values():
        for mount in service.get("volumes", ()):
            source = mount.partition(":")[0]
            known = source in compose["volumes"] or (DEPLOY / source).exists()
            assert known, mount
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        assert set(service.get("depends_on", ())) <= set(services)


def test_the_configuration_of_compose_is_valid():
    """The gateway's file is valid and refers to the services by name."""
    file = DEPLOY / "tidegate.toml"
    loaded = load(str(file), {}, ENV)
    hosts = set(read(DEPLOY / "compose.yaml")["services"])
    config = loaded.config
    assert config.store.url.split("/")[2].partition(":")[0] in hosts
    assert config.events.influx.url.split("/")[2].partition(":")[0] in hosts
    assert str(config.upstreams[0].url) == "http://llm:8000"
    assert loaded.warnings == ()


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifests_match_kubernetes_schemas(path):
    """Every document is valid by the published schemas, without unknown fields."""
    judge = pytest.importorskip("kubernetes_validate")
    for document in yaml.safe_load_all(path.read_text()):
        judge.validate(document, judge.latest_version(), strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifests_are_consistent(path):
    """Selectors, mounts and ports match, the gateway's file is valid, and the grace
    period exceeds the drain timeout.
    """
    documents = list(yaml.safe_load_all(path.read_text()))
    kinds = {}
    for document in documents:
        kinds.setdefault(document["kind"], []).append(document)
    (deployment,) = kinds["Deployment"]
    (settings,) = kinds["ConfigMap"]
    template = deployment["spec"]["template"]
    labels, pod = template["metadata"]["labels"], template["spec"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for service in kinds["Service"]:
        assert service["spec"]["selector"].items() <= labels.items()
    volumes = {volume["name"] for volume in pod["volumes"]}
    ports = {p["name"] for c in pod["containers"] for p in c.get("ports", ())}
    for container in pod["containers"]:
        assert {m["name"] for m in container.get("volumeMounts", ())} <= volumes
    for service in kinds["Service"]:
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    loaded = load("tidegate.toml", {}, ENV, text=settings["data"]["tidegate.toml"])
    drain_s = loaded.config.server.drain_timeout
    assert pod["terminationGracePeriodSeconds"] > float(drain_s) + 5


IMAGE = re.compile(r"^\s*(?:- )?image: (\S+)", re.MULTILINE)


@pytest.mark.parametrize(
    "path", [DEPLOY / "compose.yaml", *MANIFESTS], ids=lambda path: path.stem
)
def test_images_are_pinned_and_no_secrets_are_included(path):
    """Images have a patch version; no file contains a password or token."""
    text = path.read_text()
    images = IMAGE.findall(text)
    assert images
    assert [one for one in images if not re.search(r":v?\d+\.\d+\.\d+", one)] == []
    ours = [one for one in images if one.startswith("tidegate:")]
    assert ours == [f"tidegate:{__version__}"]
    named = re.findall(r"(?:TOKEN|PASSWORD): (\S+)", text)
    assert [one for one in named if not one.startswith("${")] == []
    defaults = re.findall(r"\$\{\w*(?:TOKEN|PASSWORD):-([^}]*)", text)
    assert [one for one in defaults if not one.startswith("${")] == []


def test_the_model_server_stops_after_its_sidecar():
    """The model server outlasts the gateway's drain, so open streams can finish."""
    for document in yaml.safe_load_all(
        (DEPLOY / "kubernetes/sidecar.yaml").read_text()
    ):
        if document["kind"] == "Deployment":
            pod = document["spec"]["template"]["spec"]
    waits = {
        one["name"]: int(one["lifecycle"]["preStop"]["exec"]["command"][1])
        for one in pod["containers"]
    }
    assert waits["vllm"] > waits["tidegate"] + 30
    assert waits["vllm"] + 5 <= pod["terminationGracePeriodSeconds"]
