"""The docs name all metrics, record fields and routes; their examples load."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from gateway.admin.api import GatewayRoutes
from gateway.commands.cli import app
from gateway.config import load
from gateway.core.model import METERS, AttackClass
from gateway.sinks.records import PublicRecord

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
PAGES = ["README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
PAGES.sort()
# A cookie, whose name has the same form.
NO_METRICS = {"tidegate_session"}
METRIC = re.compile(r"tidegate_[a-z_]+")
SUFFIX = re.compile(r"_(total|info|bucket|sum|count)$")


def named_metrics() -> set[str]:
    """Every metric that the code names, without the suffix of its type."""
    found = set()
    for source in (ROOT / "gateway").rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            value = node.value if isinstance(node, ast.Constant) else None
            if isinstance(value, str) and METRIC.fullmatch(value):
                found.add(SUFFIX.sub("", value))
    return found - NO_METRICS


def test_every_metric_is_documented():
    """The table and the code name the same metrics."""
    rows = re.findall(r"^\| `(tidegate_[a-z_]+)", PAGE, re.MULTILINE)
    assert {SUFFIX.sub("", name) for name in rows} == named_metrics()


def test_every_record_field_is_documented():
    """The page lists every key of a record."""
    section = PAGE.partition("\n## Records\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z_]+)`", section))
    assert {
        field.encode_name for field in msgspec.structs.fields(PublicRecord)
    } <= named


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    """Every relative link of a page leads to an existing file."""
    path = ROOT / page
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_route_is_documented():
    """The page lists every route of the admin port with its method."""
    routes = {(route.method, route.path) for route in GatewayRoutes(None).routes()}
    assert [f"{m} {p}" for m, p in routes if f"`{m} {p}`" not in PAGE] == []


def test_the_architecture_page_names_files_that_exist():
    """Every file name of the page is the end of a path of a source file."""
    page = (ROOT / "docs/architecture.md").read_text()
    named = set(re.findall(r"[A-Za-z_./]+\.(?:py|lua|toml)\b", page))
    known = [
        *(ROOT / "gateway").rglob("*"),
        *(ROOT / "tests").rglob("*"),
        *ROOT.glob("*"),
    ]
    paths = [f"/{path.relative_to(ROOT)}" for path in known]
    lost = {name for name in named if not any(p.endswith(f"/{name}") for p in paths)}
    assert {name for name in lost if "NAME" not in name} == set()


def test_every_command_is_documented():
    """Readme and docs name every command."""
    text = "\n".join((ROOT / page).read_text() for page in PAGES)
    commands = [name for name in app if not name.startswith("-")]
    assert [name for name in commands if f"`tidegate {name}" not in text] == []


def test_meters_and_classes_are_documented():
    """Glossary and policies page name every meter, the glossary every class."""
    glossary = (ROOT / "docs/glossary.md").read_text()
    policies = (ROOT / "docs/policies.md").read_text()
    assert [m for m in METERS if f"`{m}`" not in glossary] == []
    assert [m for m in METERS if f"`{m}`" not in policies] == []
    assert [c for c in get_args(AttackClass) if f"`{c}`" not in glossary] == []


def examples():
    """The TOML blocks of the pages, numbered."""
    fence = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)
    pages = ("README.md", "docs/quickstart.md", "docs/scaling.md")
    return [
        pytest.param(page, block, id=f"{page}-{number}")
        for page in pages
        for number, block in enumerate(fence.findall((ROOT / page).read_text()))
    ]


@pytest.mark.parametrize(("page", "block"), examples())
def test_configurations_of_pages_load(page, block):
    """Every example configuration is valid, once secrets and hashes are filled in."""
    text = re.sub(r"\{ (env|file) = [^}]*\}", '"secret"', block)
    text = re.sub(r"^(cert|key) = .*$", "", text, flags=re.MULTILINE)
    text = text.replace("[server.tls]", "").replace("sha256:…", "sha256:" + "0" * 64)
    if "[[upstream]]" not in text:
        text += '\n[[upstream]]\nurl = "https://api.example"\n'
    assert load(page, {}, text=text).config.upstreams


def test_readme_and_checks_run_the_same_tests():
    """The second command of the README is the last one of ``.ci/run``."""
    readme, script = (ROOT / "README.md").read_text(), (ROOT / ".ci/run").read_text()
    for words in ("pip install '.[test]'", "-m pytest -n auto"):
        assert words in readme
        assert words.removeprefix("pip ").removeprefix("install ") in script


def test_the_glossary_is_short():
    """The glossary has at most 25 terms, each once."""
    text = (ROOT / "docs" / "glossary.md").read_text()
    terms = re.findall(r"^\| \*\*([^*]+)\*\*", text, re.MULTILINE)
    assert len(terms) == len(set(terms)) <= 25
