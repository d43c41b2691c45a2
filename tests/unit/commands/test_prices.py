"""``tidegate prices`` lists prices and finds models without one."""

import datetime as dt
import json

import pytest

from gateway.commands.cli import run
from gateway.serve import price_table

CONFIG = """
[[upstream]]
url = "https://api.openai.com"
[policy.default]
models = { allow = ["gpt-5-mini", "chat-*", "chat-eastus"] }
[policy.default.prices."our-own"]
input = 1.0
output = 2.0
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A configuration whose record file has requests of two models."""
    monkeypatch.chdir(tmp_path)
    lines = [{"model": "gpt-4o"}, {"model": "mystery"}, {"model": "mystery"}, {}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + "broken\n"
    (tmp_path / "records.jsonl").write_text(text)
    path = tmp_path / "tidegate.toml"
    path.write_text(CONFIG + '[events]\nfile = "records.jsonl"\n')
    return str(path)


@pytest.fixture
def fresh(monkeypatch):
    """The table is new."""
    monkeypatch.setattr(price_table, "MAX_AGE_DAYS", 10**6)


@pytest.mark.usefixtures("fresh")
def test_models_are_listed(capsys):
    """Names match patterns; the first line says source and date."""
    assert run(["prices", "gpt-5-mini", "--provider", "openai"]) == 0
    first, columns, row = capsys.readouterr().out.splitlines()
    assert "genai-prices" in first
    assert "2026-" in first
    assert columns.split()[:3] == ["model", "provider", "input"]
    assert row.split()[:5] == ["gpt-5-mini", "openai", "0.25", "2", "0.025"]
    assert "web_searches = 10.0" in row
    assert "priority = { input = 0.45" in row


@pytest.mark.usefixtures("fresh")
def test_other_spellings_are_found(capsys):
    """What is no name in the table is looked up as a client's spelling."""
    assert run(["prices", "openai/GPT-4o-2024-08-06", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["items"][0]["input"] == 2.5
    assert found["warning"] == ""
    assert run(["prices", "nobody-knows"]) == 1
    assert "no model matches" in capsys.readouterr().err


@pytest.mark.usefixtures("fresh")
def test_providers_are_listed(capsys):
    """Providers with the number of their models; a wrong one is bad usage."""
    assert run(["prices", "--providers"]) == 0
    assert "groq" in capsys.readouterr().out
    assert run(["prices", "--provider", "nobody"]) == 2
    assert run(["prices", "sora*", "--provider", "openai"]) == 0
    assert "video_seconds:1024x1792 = 0.5" in capsys.readouterr().out


@pytest.mark.usefixtures("fresh")
def test_models_without_a_price_are_found(config, capsys):
    """Models that a policy names or that were requested are checked; exit 1 if one has
    no price.
    """
    assert run(["prices", "--check", "--config", config, "--json"]) == 1
    items = json.loads(capsys.readouterr().out)["items"]
    found = {one["model"]: (one["requests"], one["price"]) for one in items}
    assert found == {
        "gpt-5-mini": (0, "table"),
        "chat-eastus": (0, "none"),
        "our-own": (0, "policy"),
        "gpt-4o": (1, "table"),
        "mystery": (2, "none"),
    }
    assert run(["prices", "--check", "--config", config]) == 1
    out, err = capsys.readouterr()
    assert "mystery" in out
    assert "chat-eastus has no price (policy default)" in err


def test_a_missing_record_file(config, tmp_path, capsys, monkeypatch):
    """Without records only the configuration is checked, unless the file was named."""
    (tmp_path / "records.jsonl").unlink()
    text = (tmp_path / "tidegate.toml").read_text().replace('"chat-eastus"', '"o3"')
    (tmp_path / "tidegate.toml").write_text(text)
    monkeypatch.setattr(price_table, "MAX_AGE_DAYS", 10**6)
    assert run(["prices", "--check", "--config", config]) == 0
    assert run(["prices", "--check", "--config", config, "--records", "x"]) == 2
    assert "cannot read x" in capsys.readouterr().err


def test_an_old_table_is_said(config, capsys, monkeypatch):
    """The list, the check and `tidegate check` warn of an old table."""
    monkeypatch.setattr(price_table, "MAX_AGE_DAYS", -1)
    today = dt.datetime.now(dt.UTC).date()
    assert price_table.age_days(price_table.packaged_table(), today) >= 0
    assert run(["prices", "gpt-4o"]) == 0
    assert "days old" in capsys.readouterr().err
    assert run(["prices", "--check", "--config", config]) == 1
    assert "days old" in capsys.readouterr().err
    assert run(["check", "--config", config]) == 0
    out, err = capsys.readouterr()
    assert "prices: genai-prices" in out
    assert "days old" in err
