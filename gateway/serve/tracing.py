"""Settings of tracing, from OpenTelemetry's environment variables.

A stated endpoint enables it. There is no key in the configuration file: deployments
with a collector set these variables already.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from urllib.parse import urlsplit

import msgspec

from gateway.http.tracing import Tracer

MISSING = "no spans are made: run  pip install 'tidegate[otel]'"
_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
# Sampled share of the traces that begin here; None: OTEL_TRACES_SAMPLER_ARG.
_SAMPLERS: dict[str, float | None] = {
    "always_on": 1.0,
    "always_off": 0.0,
    "traceidratio": None,
}
_PARENT_BASED = "parentbased_"
_DEFAULT_SAMPLER = _PARENT_BASED + "traceidratio"
# Spans that are kept while the exporter retries; a span has about 1 kB.
QUEUE = 20_000
BATCH = 512
DELAY_MS = 1000


class Tracing(msgspec.Struct, frozen=True):
    """Settings read from the environment. ``problems``: messages for the log."""

    on: bool = False
    ratio: float = 1.0
    parent_based: bool = True
    queue: int = QUEUE
    batch: int = BATCH
    delay_s: float = DELAY_MS / 1e3
    problems: tuple[str, ...] = ()


def read_tracing(environ: Mapping[str, str]) -> Tracing:
    """Read the variables. Invalid values are reported in ``problems``, never raised."""
    env = {key: value.strip() for key, value in environ.items() if value.strip()}
    endpoint = _first(env, _ENDPOINTS)
    if not endpoint or env.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return Tracing()
    if "otlp" not in env.get("OTEL_TRACES_EXPORTER", "otlp"):
        return Tracing()
    if not _is_url(endpoint):
        why = "no spans are made: the OTLP endpoint is not an http:// or https:// URL"
        return Tracing(problems=(why,))
    if not all(map(_is_installed, _PACKAGES)):
        return Tracing(problems=(MISSING,))
    problems: list[str] = []
    if _first(env, _PROTOCOLS) not in {"", _PROTOCOL}:
        problems.append(
            f"only OTLP over {_PROTOCOL} is supported, usually on port 4318"
        )
    ratio, parent_based = _sampling(env, problems)
    queue = _whole(env, "OTEL_BSP_MAX_QUEUE_SIZE", QUEUE, problems)
    batch = _whole(env, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH, problems)
    delay_ms = _whole(env, "OTEL_BSP_SCHEDULE_DELAY", DELAY_MS, problems)
    return Tracing(
        on=True,
        ratio=ratio,
        parent_based=parent_based,
        queue=queue,
        batch=min(batch, queue),
        delay_s=delay_ms / 1e3,
        problems=tuple(problems),
    )


def open_tracer(environ: Mapping[str, str]) -> Tracer | None:
    """The tracer of a worker; None if tracing is off. Control logs the problems."""
    found = read_tracing(environ)
    if not found.on:
        return None
    return Tracer(found.ratio, parent_based=found.parent_based)


def _first(env: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((env[name] for name in names if name in env), "")


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        return False


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def _sampling(env: Mapping[str, str], problems: list[str]) -> tuple[float, bool]:
    """The share of sampled traces, and whether the parent's decision takes precedence."""
    name = env.get("OTEL_TRACES_SAMPLER", _DEFAULT_SAMPLER).lower()
    kind = name.removeprefix(_PARENT_BASED)
    if kind not in _SAMPLERS:
        problems.append(f"OTEL_TRACES_SAMPLER: {_DEFAULT_SAMPLER} is used instead")
        name, kind = _DEFAULT_SAMPLER, "traceidratio"
    share = _SAMPLERS[kind]
    if share is None:
        share = _ratio(env, problems)
    return share, name.startswith(_PARENT_BASED)


def _ratio(env: Mapping[str, str], problems: list[str]) -> float:
    text = env.get("OTEL_TRACES_SAMPLER_ARG", "1")
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if 0.0 <= ratio <= 1.0:
        return ratio
    problems.append("OTEL_TRACES_SAMPLER_ARG is not a number from 0 to 1; 1 is used")
    return 1.0


def _whole(env: Mapping[str, str], name: str, default: int, problems: list[str]) -> int:
    text = env.get(name, str(default))
    if text.isascii() and text.isdigit() and int(text[:9]) > 0:
        return int(text[:9])
    problems.append(f"{name} is not a whole number above 0; {default} is used")
    return default
