"""Every default exists once, in the configuration or in ``core.model``."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.alerts.receivers import SCHEDULE_S, Receiver, receivers_of
from gateway.config import effective_policy, load, structs
from gateway.config.build import fields_of
from gateway.config.document import attribute_texts
from gateway.config.resolve import anomaly_table
from gateway.config.structs import AlertTable, AnomalyTable, StoreTable
from gateway.config.values import Url, parse_duration, to_toml
from gateway.core.model import Anomaly, JwtRule, Policy
from gateway.detect.detectors import settings_of
from gateway.detect.model import DetectSettings
from gateway.limits.plans import DEFAULT_PREFIX
from gateway.proxy.tables import DataSettings
from gateway.store.backend import LimiterOptions
from gateway.worker.build import data_settings

BARE = '[[upstream]]\nurl = "http://x"\n'
# Words of the configuration that are common words elsewhere, with other meanings.
COMMON = {"name", "type", "url", "to", "n", "path", "reason", "mode", "level", "format"}
COMMON |= {"keep", "tokens", "timeout", "expect", "idle", "prefix", "subject"}


def config_keys() -> set[str]:
    """Names of every key with a default, and of the same with a unit."""
    keys = set()
    for table in vars(structs).values():
        if isinstance(table, type) and issubclass(table, msgspec.Struct):
            for field in msgspec.structs.fields(table):
                if field.default not in (msgspec.NODEFAULT, None, (), "", False):
                    keys.add(field.name)
    keys |= set(fields_of(AnomalyTable))
    keys -= COMMON
    return keys | {f"{key}_s" for key in keys} | {f"{key}_bytes" for key in keys}


def literal_defaults(path: Path) -> list[str]:
    """Fields and parameters of a module whose default is a number."""
    found = []

    def note(name: str, value: ast.expr | None) -> None:
        try:
            literal = None if value is None else eval(ast.unparse(value), {})
        except NameError:
            return
        if isinstance(literal, int | float) and literal not in (0, 1):
            found.append(name)

    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, ast.AnnAssign) and isinstance(
                    item.target, ast.Name
                ):
                    note(item.target.id, item.value)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            spec = node.args
            plain = [*spec.posonlyargs, *spec.args]
            for arg, default in zip(
                reversed(plain), reversed(spec.defaults), strict=False
            ):
                note(arg.arg, default)
            for arg, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True):
                note(arg.arg, default)
    return found


def test_no_module_states_a_default_of_the_configuration(repository: Path):
    """Settings outside the configuration take its defaults, not numbers of their own."""
    keys = config_keys()
    second = [
        f"{path.relative_to(repository)}: {name}"
        for path in sorted((repository / "gateway").rglob("*.py"))
        if "config" not in path.parts and path.name != "model.py"
        for name in literal_defaults(path)
        if name in keys
    ]
    assert second == []


def test_settings_have_the_defaults_of_the_configuration():
    """A settings struct built without arguments is what an empty file resolves to."""
    config = load("f.toml", {}, {}, text=BARE).config
    assert data_settings(config.server, b"tidegate") == DataSettings()
    table = AlertTable(type="slack", url=Url("https://x"))
    assert receivers_of([table]) == [Receiver("slack", "slack", "https://x")]
    policy = effective_policy(config, "default").policy
    assert policy == Policy("default")
    assert settings_of({}, policy).default == DetectSettings()
    jwt = structs.JwtTable(jwks_url=Url("https://x"))
    assert JwtRule(**msgspec.structs.asdict(jwt)) == JwtRule(jwks_url="https://x")


def test_the_store_has_the_defaults_of_the_configuration():
    """A store opened without options has the prefix and timeout of an empty file."""
    options, table = LimiterOptions(), StoreTable()
    assert options.prefix == table.prefix.encode() == DEFAULT_PREFIX
    assert options.timeout_s == float(table.timeout)
    assert options.when_down == table.when_down


@pytest.mark.parametrize("key", list(fields_of(AnomalyTable)))
def test_the_page_states_built_in_values(key):
    """``Built in: X`` in the documentation of a key is the value in force."""
    text = attribute_texts()["AnomalyTable"][key]
    stated = re.search(r"Built in: `?([^`,]+?)`?(?:\.$|,)", text)
    value: Any = getattr(anomaly_table(Anomaly()), key)
    if stated is None:
        assert key in {"ladder", "classes"}
    else:
        assert stated[1] == to_toml(value).strip('"')


def test_the_example_states_built_in_values(repository: Path):
    """The anomaly settings and caps of the example are the built-in ones."""
    text = (repository / "config.example.toml").read_text()
    policy = effective_policy(load("f.toml", {}, {}, text=text).config, "default")
    assert policy.policy.anomaly == Anomaly()
    assert policy.policy.caps == Policy("x").caps
    retries = re.search(r"^#retries = \[(.*)\]", text, re.MULTILINE)
    pauses = re.findall(r'"([^"]+)"', retries[1] if retries else "")
    assert tuple(float(parse_duration(one)) for one in pauses) == SCHEDULE_S
