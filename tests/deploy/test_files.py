"""What is under deploy/ holds together: rules, boards, compose, manifests, the docs."""

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
    """Names of metrics in the table of docs/operations.md."""
    text = (REPOSITORY / "docs/operations.md").read_text()
    found = set(re.findall(r"^\| `(tidegate_[a-z_]+)", text, re.MULTILINE))
    histograms = {name for name in found if name.endswith("_seconds")}
    return found | {f"{name}_bucket" for name in histograms}


@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool on PATH")
@pytest.mark.parametrize("what", ["rules", "tests", "configuration"])
def test_promtool_is_content(what):
    """Rules are valid and do what their unit tests say."""
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
def test_amtool_is_content():
    """So is Alertmanager's configuration."""
    file = DEPLOY / "alertmanager/alertmanager.yml"
    done = subprocess.run(
        ["amtool", "check-config", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_every_alert_can_be_acted_on(rule):
    """Severity, summary, description, and a place in the docs that says what to do."""
    notes = rule["annotations"]
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert notes["summary"]
    assert notes["description"]
    page, _, anchor = notes["runbook"].partition("#")
    headings = re.findall(r"^### (\w+)$", (REPOSITORY / page).read_text(), re.MULTILINE)
    assert anchor in {heading.lower() for heading in headings}


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_every_alert_has_a_unit_test(rule):
    """It fires in one of promtool's tests."""
    assert rule["alert"] in (DEPLOY / "prometheus/rules_test.yaml").read_text()


@pytest.mark.parametrize("path", [RULES, *BOARDS], ids=lambda path: path.name)
def test_only_metrics_that_exist_are_asked_for(path):
    """Every name is in the table of metrics."""
    unknown = set(METRIC.findall(path.read_text())) - documented()
    assert unknown == set()


def test_the_boards_are_those_of_the_program():
    """Nobody edited a board by hand."""
    program = DEPLOY / "grafana/boards.py"
    done = subprocess.run(
        [sys.executable, str(program), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_board_is_what_grafana_reads(path):
    """Grafana's own types take it, and give back its panels and queries."""
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
    """Each has its own place within 24 columns."""
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


def test_compose_joins_what_belongs_together():
    """All six; files that are mounted exist; only loopback is published; volumes and
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
    """The gateway takes it, and talks to the services by their names."""
    file = DEPLOY / "tidegate.toml"
    loaded = load(str(file), {}, ENV)
    hosts = set(read(DEPLOY / "compose.yaml")["services"])
    config = loaded.config
    assert config.store.url.split("/")[2].partition(":")[0] in hosts
    assert config.events.influx.url.split("/")[2].partition(":")[0] in hosts
    assert str(config.upstreams[0].url) == "http://llm:8000"
    assert loaded.warnings == ()


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifests_keep_kubernetes_schemas(path):
    """Every document is valid by the published schemas, without unknown fields."""
    judge = pytest.importorskip("kubernetes_validate")
    for document in yaml.safe_load_all(path.read_text()):
        judge.validate(document, judge.latest_version(), strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifests_fit_together(path):
    """Selectors meet labels, mounts meet volumes, ports meet ports, the gateway's file
    is valid, and a pod has more time to end than the gateway needs to drain.
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
def test_images_are_pinned_and_secrets_are_elsewhere(path):
    """To a patch release; no password or token stands in the file, nor as a default."""
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


def test_the_model_outlives_its_sidecar():
    """Kubernetes ends both at once; streams run to their end in the gateway's drain."""
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
