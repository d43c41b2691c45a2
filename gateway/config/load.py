"""Loads the configuration: file, then environment, then flags, to a ``Config``."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET

from gateway.config.build import Diagnostics, Text, build_table
from gateway.config.errors import ConfigError, Key, Problem
from gateway.config.locate import locate_keys
from gateway.config.structs import DEFAULT_STORE, Config
from gateway.config.validate import validate
from gateway.config.values import EMBEDDED_DIRECTORY
from gateway.store.opening import directory_in

DEFAULT_FILE = "tidegate.toml"
RECORDS_FILE = "records.jsonl"
# Only names with a double underscore are configuration: TIDEGATE_ADMIN_TOKEN is not.
_ENV_NAME = re.compile(r"TIDEGATE_([A-Z0-9]+(?:__[A-Z0-9_.-]+)+)", re.IGNORECASE)
# Overrides that are not a key; their flags.
_FLAGS = {"mode": "--mode", "upstream": "--upstream"}


class Loaded(msgspec.Struct, frozen=True):
    """A configuration with its file, its warnings and the place of every key."""

    config: Config
    file: str | None  # None: no file, everything from flags, environment, defaults
    warnings: tuple[Problem, ...]
    # Where each key is stated: "tidegate.toml:12", an environment variable, a flag.
    # Absent keys have their default.
    places: dict[Key, str]


def load_config(
    path: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    *,
    text: str | None = None,
) -> Config:
    """The configuration of ``path`` (None: ``./tidegate.toml`` if it exists).

    ``overrides`` are the flags: dotted keys such as ``"server.listen"``, and
    ``"upstream"`` (a URL) and ``"mode"`` (of every policy). ``text`` replaces the
    file's content, so that a worker reads exactly what control has validated.
    Raises ConfigError with all faults.
    """
    return load(path, overrides, env, text=text).config


def load(
    path: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    *,
    text: str | None = None,
) -> Loaded:
    """``load_config`` with warnings and the place of every key."""
    env = os.environ if env is None else env
    path = find_file(path)
    text = _read(path) if text is None and path else text or ""
    base = os.path.dirname(os.path.abspath(path)) if path else os.getcwd()
    raw = _parse(text, path or "")
    diagnostics = Diagnostics(base, env, path or "configuration", locate_keys(text))
    _apply_env(raw, env, diagnostics)
    _apply_flags(raw, overrides or {}, diagnostics)
    _apply_defaults(raw, diagnostics, has_file=path is not None)
    config = build_table(Config, raw, (), diagnostics)
    if config is not UNSET:
        validate(config, diagnostics)
    if diagnostics.problems:
        raise ConfigError(tuple(diagnostics.problems))
    return Loaded(config, path, tuple(diagnostics.warnings), _places(diagnostics))


def _apply_defaults(
    raw: dict[str, Any], diagnostics: Diagnostics, *, has_file: bool
) -> None:
    """Set defaults that depend on other keys or on whether there is a file."""
    store = raw.setdefault("store", {})
    if isinstance(store, dict):
        store.setdefault("url", DEFAULT_STORE)  # made absolute when it is converted
        _default_records(raw, store["url"])
    policies = raw.setdefault("policy", {})
    if isinstance(policies, dict) and not has_file:
        default = policies.setdefault("default", {})
        if isinstance(default, dict) and "mode" not in default:
            default["mode"] = "observe"
            message = "observe: nothing is refused; to refuse, use --mode enforce"
            diagnostics.warn(("policy", "default", "mode"), message)


def _default_records(raw: dict[str, Any], store_url: Any) -> None:
    """Default ``events.file``: in the directory of the embedded store. Other stores have
    no directory that is known to be writable.
    """
    events = raw.setdefault("events", {})
    if isinstance(store_url, str) and isinstance(events, dict):
        directory = directory_in(store_url)
        if directory is not None:
            # Same type as the URL: a flag's path is relative to the working directory.
            path = type(store_url)(f"{directory or EMBEDDED_DIRECTORY}/{RECORDS_FILE}")
            events.setdefault("file", path)


def find_file(path: str | None) -> str | None:
    """``path``, else ``tidegate.toml`` of the working directory if it exists."""
    if path is None and os.path.isfile(DEFAULT_FILE):
        return DEFAULT_FILE
    return path


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read().decode()
    except OSError as error:
        raise _fatal(path, 0, f"cannot read it: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _fatal(path, line, "not UTF-8") from None


def _parse(text: str, path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r" \(at line (\d+), column \d+\)", str(error))
        line = int(place[1]) if place else text.count("\n") + 1
        message = re.sub(r" \(at .*\)", "", str(error))
        raise _fatal(path, line, f"not TOML: {message}") from None
    except RecursionError:
        raise _fatal(path, 0, "not TOML: nested too deep") from None


def _fatal(path: str, line: int, message: str) -> ConfigError:
    return ConfigError((Problem(path, line, "", message),))


def _apply_env(
    raw: dict[str, Any], env: Mapping[str, str], diagnostics: Diagnostics
) -> None:
    """Set the keys that environment variables name; report names without a key."""
    for name in sorted(env):
        match = _ENV_NAME.fullmatch(name)
        if match and not _put(raw, match[1].split("__"), env[name], name, diagnostics):
            diagnostics.sources[(match[1].lower(),)] = name
            diagnostics.add((match[1].lower(),), "is not a key of the configuration")


def _put(
    raw: dict[str, Any],
    parts: list[str],
    value: str,
    name: str,
    diagnostics: Diagnostics,
) -> bool:
    """Set the key that an environment variable names; False if there is no such key."""
    here: Any = raw
    key: Key = ()
    for position, part in enumerate(parts):
        step = _step(here, part)
        if step is None:
            return False
        key = (*key, step)
        if position == len(parts) - 1:
            here[step] = Text(value)
            diagnostics.sources[key] = name
            return True
        if isinstance(here, dict) and step not in here:
            here[step] = [] if parts[position + 1].isdecimal() else {}
            diagnostics.sources[key] = name
        here = here[step]
    return False


def _step(here: Any, part: str) -> str | int | None:
    """The key or index of ``part`` in ``here``; names match case-insensitively."""
    if isinstance(here, list):
        if not part.isdecimal() or int(part) > len(here):
            return None
        if int(part) == len(here):
            here.append({})
        return int(part)
    if not isinstance(here, dict):
        return None
    return next((k for k in here if k.lower() == part.lower()), part.lower())


def _apply_flags(
    raw: dict[str, Any], overrides: Mapping[str, Any], diagnostics: Diagnostics
) -> None:
    """Set the keys of ``overrides`` (as in ``load_config``); None: flag not given."""
    for name, value in overrides.items():
        if value is None:
            continue
        flag = _FLAGS.get(name) or "--" + _flag_name(name)
        item = Text(value) if isinstance(value, str) else value
        if name == "mode":
            _set_mode(raw, item, flag, diagnostics)
        elif name == "upstream":
            _set_upstream(raw, item, flag, diagnostics)
        else:
            parts = name.split(".")
            here = raw
            for part in parts[:-1]:
                here = here.setdefault(part, {})
                if not isinstance(here, dict):
                    break  # what is no table is reported when it is built
            else:
                here[parts[-1]] = item
                diagnostics.sources[tuple(parts)] = flag


def _flag_name(key: str) -> str:
    names = {"server.listen": "listen", "admin.listen": "admin", "store.url": "store"}
    return names.get(key, key.rpartition(".")[2].replace("_", "-"))


def _set_mode(
    raw: dict[str, Any], mode: Any, flag: str, diagnostics: Diagnostics
) -> None:
    """Set the mode of every policy, overriding the file."""
    policies = raw.setdefault("policy", {})
    if not isinstance(policies, dict):
        return
    policies.setdefault("default", {})
    for name, policy in policies.items():
        if isinstance(policy, dict):
            policy["mode"] = mode
            diagnostics.sources["policy", name, "mode"] = flag


def _set_upstream(
    raw: dict[str, Any], url: Any, flag: str, diagnostics: Diagnostics
) -> None:
    """Set the URL of the only upstream and keep its other keys."""
    upstreams = raw.setdefault("upstream", [{}])
    if not isinstance(upstreams, list):
        return
    if len(upstreams) == 1 and isinstance(upstreams[0], dict):
        diagnostics.sources["upstream", 0, "url"] = flag
        upstreams[0]["url"] = url
    else:
        diagnostics.sources["upstream",] = flag
        diagnostics.add(
            ("upstream",), "the file has several upstreams; change it there"
        )


def _places(diagnostics: Diagnostics) -> dict[Key, str]:
    places = {
        key: f"{diagnostics.file}:{line}" for key, line in diagnostics.lines.items()
    }
    return places | diagnostics.sources
