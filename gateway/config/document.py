"""Writes ``docs/configuration.md`` from the structs: ``python -m`` this module.

Their attribute docstrings are the text, their annotations the types, so the page cannot
say anything else than the code. A test compares the committed page with this.
"""

from __future__ import annotations

import ast
import inspect
import sys
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from gateway.config import structs
from gateway.config.build import fields_of
from gateway.config.values import (
    Duration,
    FilePath,
    Secret,
    Size,
    StoreUrl,
    Url,
    format_duration,
    format_size,
)
from gateway.core.model import Price

PAGE = "docs/configuration.md"
_HEADINGS: dict[str, type[msgspec.Struct]] = {
    "[server]": structs.ServerTable,
    "[server.tls]": structs.TlsTable,
    "[server.log]": structs.LogTable,
    "[admin]": structs.AdminTable,
    "[admin.tls]": structs.TlsTable,
    "[store]": structs.StoreTable,
    "[[upstream]]": structs.UpstreamTable,
    "[upstream.timeouts]": structs.TimeoutsTable,
    "[policy.NAME]": structs.PolicyTable,
    "A limit": structs.LimitTable,
    "[policy.NAME.caps]": structs.CapsTable,
    "[[policy.NAME.model]]": structs.ModelTable,
    '[policy.NAME.prices."MODEL"]': Price,
    "[policy.NAME.anomaly]": structs.AnomalyTable,
    "[policy.NAME.anomaly.ladder]": structs.LadderTable,
    "[[tenant]]": structs.TenantTable,
    "[tenant.jwt]": structs.JwtTable,
    "[tenant.header]": structs.HeaderTable,
    "[[campaign]]": structs.CampaignTable,
    "[[alert]]": structs.AlertTable,
    "[[silence]]": structs.SilenceTable,
    "[events]": structs.EventsTable,
    "[events.kafka]": structs.KafkaTable,
    "[events.influx]": structs.InfluxTable,
}
_INTRODUCTION = """\
# Configuration

Written from the code by `python -m gateway.config.document`; do not edit.

One TOML file: `--config FILE`, else `./tidegate.toml` where there is one, else none.
Environment variables override the file, flags override both.
`config.example.toml` shows every key with its default;
`tidegate check` prints what is in force and where each value is stated.

- **Durations** are `"250ms"`, `"30s"`, `"5m"`, `"1h30m"`, `"1d"`; **sizes** `"64KiB"`,
  `"32MiB"` or a whole number of bytes.
- **Secrets** are `{ env = "NAME" }` or `{ file = "PATH" }`; a plain text works, and
  `check` warns about it. They are never printed.
- **Paths** in the file start from the file's directory, those of flags and environment
  from the working directory.
- **Unknown keys are errors.** All faults are reported at once, each with file, line,
  key, and what is allowed. On reload a file with a fault changes nothing.
- **Environment:** `TIDEGATE_SECTION__KEY`, with two underscores between the parts:
  `TIDEGATE_SERVER__LISTEN=:8080`, `TIDEGATE_POLICY__DEFAULT__MODE=observe`,
  `TIDEGATE_UPSTREAM__0__URL=…` (tables in a list by number). Lists are TOML
  (`[{ per = "user", requests = 5, window = "1m" }]`) or words between commas.
- **Flags:** `--upstream` is the URL of the only upstream, `--mode` of every policy,
  `--listen`, `--admin`, `--store`, `--workers` are `server.listen`, `admin.listen`,
  `store.url`, `server.workers`.
- **Without a file** the mode is `observe` unless something states it; with one it is
  `enforce`.
- `server.listen`, `server.workers`, `server.log`, `admin.listen` and `[store]` need a
  restart; the rest is reloaded by SIGHUP and when the file changes.
"""
_TYPES: dict[Any, str] = {
    str: "text",
    int: "number",
    float: "number",
    bool: "boolean",
    Duration: "duration",
    Size: "size",
    FilePath: "path",
    Url: "URL",
    StoreUrl: "store URL",
    Secret: "secret",
}


def render() -> str:
    """The whole page."""
    texts = attribute_texts()
    sections = [_section(head, table, texts) for head, table in _HEADINGS.items()]
    return "\n".join([_INTRODUCTION, *sections])


def attribute_texts() -> dict[str, dict[str, str]]:
    """Struct name -> attribute -> the string that stands under it."""
    texts: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(structs)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        found = texts.setdefault(node.name, {})
        for this, following in zip(node.body, node.body[1:], strict=False):
            text = _text(following)
            if isinstance(this, ast.AnnAssign) and text:
                found[ast.unparse(this.target)] = " ".join(text.split())
    texts["Price"] = {
        "input": "Prompt tokens.",
        "output": "Completion tokens.",
        "cached": "Prompt tokens read from the provider's cache; absent: as `input`.",
        "cache_write": "Prompt tokens written to it; absent: as `input`.",
    }
    return texts


def _text(node: ast.stmt) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return str(node.value.value)
    return ""


def _section(
    head: str, table: type[msgspec.Struct], texts: dict[str, dict[str, str]]
) -> str:
    title = f"`{head}`" if head.startswith("[") else head
    words = inspect.getdoc(table) or ""
    lines = [f"## {title}", "", words, "", "| key | takes | default | |"]
    lines.append("| --- | --- | --- | --- |")
    defaults = {f.encode_name: f for f in msgspec.structs.fields(table)}
    for key, (attribute, kind) in fields_of(table).items():
        text = texts[table.__name__][attribute]
        default = _default(defaults[key])
        cells = (f"`{key}`", _takes(kind), default, text)
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines) + "\n"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default
    if value is msgspec.NODEFAULT or isinstance(value, msgspec.Struct | dict):
        return ""
    return "" if value is None or value == () else f"`{toml_value(value)}`"


def toml_value(value: Any) -> str:
    """A default as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Duration):
        return f'"{format_duration(value)}"'
    if isinstance(value, Size):
        return f'"{format_size(value)}"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _takes(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_takes(a) for a in args if a is not type(None))
    if origin is Literal:
        return ", ".join(f'`"{word}"`' for word in args)
    if origin is tuple:
        return f"list of {_takes(args[0])}"
    if origin is dict:
        return "table"
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return "table"
    if args:  # Annotated
        return _takes(args[0])
    return _TYPES.get(kind, "date and time")


def main() -> None:
    """Write the page; with ``--check`` only say whether it is current."""
    page = Path(__file__).resolve().parents[2] / PAGE
    if "--check" not in sys.argv:
        page.write_text(render(), encoding="utf-8")
    elif page.read_text(encoding="utf-8") != render():
        sys.exit(f"{PAGE} is out of date: python -m gateway.config.document")
    print(f"{PAGE} is current")


if __name__ == "__main__":
    main()
