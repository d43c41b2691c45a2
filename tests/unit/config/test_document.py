"""The reference page and the example file match the code."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args, get_origin

import msgspec
import pytest

from gateway.config import load
from gateway.config.document import _HEADINGS, PAGE, render
from gateway.config.prices import ContextPrice, PriceRates
from gateway.config.structs import Config

ABSENT = re.compile(r"^#(?=[^ \n])", re.MULTILINE)
ENV = dict.fromkeys(
    ["TIDEGATE_ADMIN_TOKEN", "TIDEGATE_VIEWER_TOKEN", "OPENAI_API_KEY", "INFLUX_TOKEN"],
    "x",
)


@pytest.fixture(name="example")
def _example(repository: Path) -> str:
    return (repository / "config.example.toml").read_text()


def full(example: str) -> str:
    """The example with every key that is absent by default switched on."""
    text = ABSENT.sub("", example)
    return text.replace('{ file = "/run/secrets/store" }', '{ env = "STORE" }')


def test_the_page_is_current(repository: Path):
    """docs/configuration.md is what the structs generate."""
    assert (repository / PAGE).read_text() == render()


def test_every_table_is_documented():
    """No struct that the configuration can hold is left out of the page."""
    seen = {Config}
    todo = [Config]
    while todo:
        for field in msgspec.structs.fields(todo.pop()):
            for found in structs_in(field.type):
                if found not in seen:
                    seen.add(found)
                    todo.append(found)
    # Prices of a context or service tier have the keys of ``ModelPrice``.
    assert seen - {Config, PriceRates, ContextPrice} == set(_HEADINGS.values())


def structs_in(kind):
    """Struct types anywhere in an annotation."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
    for arg in getattr(kind, "__args__", ()):
        yield from structs_in(arg)


def test_the_example_loads_without_warnings(example):
    """The example file is a valid configuration without warnings."""
    assert load("config.example.toml", {}, {}, text=example).warnings == ()


def test_the_full_example_loads(example):
    """The example is also valid with every optional key uncommented."""
    env = ENV | {"HOOK_SECRET": "whsec_eA==", "STORE": "x"}
    text = full(example).replace('inherit = "strict"', 'inherit = ""')
    text = text.replace("trusted_proxies = []", 'trusted_proxies = ["10.0.0.0/8"]')
    keys = {w.key for w in load("f.toml", {}, env, text=text).warnings}
    assert keys == {"events.kafka"}


def test_the_example_names_every_key(example):
    """The example contains every key of every table, uncommented or commented."""
    words = set(re.findall(r"[a-z_]+", example))
    for table in _HEADINGS.values():
        for field in msgspec.structs.fields(table):
            assert field.encode_name in words, (table.__name__, field.encode_name)


def test_the_example_names_every_choice(example):
    """The example file contains every literal value that a key accepts."""
    words = set(re.findall(r"[a-z_]+", example))
    words |= set(re.findall(r'"([a-z-]+)"', example))
    for table in _HEADINGS.values():
        for field in msgspec.structs.fields(table):
            missing = set(words_in(field.type)) - words
            assert not missing, (table.__name__, field.encode_name, missing)


def words_in(kind):
    """Lower-case words of the Literals in an annotation, without the keys of tables."""
    if get_origin(kind) is not dict:
        for arg in get_args(kind):
            if isinstance(arg, str):
                yield from [arg] if arg.islower() else []
            else:
                yield from words_in(arg)


def test_the_example_states_defaults(example):
    """The uncommented values of the example are the defaults."""
    stated = load("f.toml", {}, {}, text=example).config
    bare = load("f.toml", {}, {}, text='[[upstream]]\nurl = "http://x"\n').config
    for name in ("server", "admin", "store", "events"):
        assert getattr(stated, name) == getattr(bare, name)
    ours = msgspec.structs.asdict(stated.upstreams[0]) | {"url": "http://x"}
    assert ours == msgspec.structs.asdict(bare.upstreams[0])


def test_the_page_command_says_that_it_is_current(repository: Path):
    """``--check`` is what continuous integration runs."""
    command = [sys.executable, "-m", "gateway.config.document", "--check"]
    done = subprocess.run(
        command, cwd=repository, capture_output=True, text=True, check=True
    )
    assert "is current" in done.stdout


def test_toml_blocks_of_the_docs_load(repository: Path):
    """Every complete example of the policies page is a valid configuration."""
    page = (repository / "docs/policies.md").read_text()
    blocks = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert blocks
    for block in blocks:
        head = "" if "[[upstream]]" in block else '[[upstream]]\nurl = "http://x"\n'
        assert tomllib.loads(block)
        load("docs.toml", {}, {"KEY": "x"}, text=head + block)
