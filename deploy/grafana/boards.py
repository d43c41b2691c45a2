"""Grafana dashboards as code.

usage: python deploy/grafana/boards.py [--check]

Writes ``boards/*.json`` beside this file. With ``--check`` it writes nothing and exits 1
if they differ.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).resolve().parent / "boards"
SOURCE = {"type": "prometheus", "uid": "${source}"}
WIDTH, HEIGHT = 24, 8
JOB = 'job=~"$job", instance=~"$instance"'
RANGE = "$__rate_interval"


class Query(NamedTuple):
    """A PromQL expression and the legend of its series."""

    expr: str
    legend: str = ""


class Panel(NamedTuple):
    """A panel of ``wide`` of 24 columns; ``kind``: ``timeseries`` or ``stat``."""

    title: str
    text: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"
    wide: int = 12
    stacked: bool = False


def rate(metric: str, more: str = "") -> str:
    """Rate per second over the selected gateways."""
    return f"rate({metric}{{{JOB}{', ' + more if more else ''}}}[{RANGE}])"


def total(expr: str, *by: str) -> str:
    """Sum over all labels except ``by``."""
    return f"sum by ({', '.join(by)}) ({expr})" if by else f"sum({expr})"


def quantiles(metric: str) -> tuple[Query, ...]:
    """The p50, p95 and p99 of a histogram."""
    buckets = total(rate(f"{metric}_bucket"), "le")
    return tuple(
        Query(f"histogram_quantile({q}, {buckets})", f"p{100 * q:g}")
        for q in (0.5, 0.95, 0.99)
    )


def gauge(metric: str) -> str:
    """A gauge of the selected gateways."""
    return f"{metric}{{{JOB}}}"


REQUESTS, TOKENS = "tidegate_requests_total", "tidegate_tokens_total"
REFUSED = 'action=~"limit|throttle|block", status=~"4.."'

NOW = (
    Panel("Requests", "Per second.", (Query(total(rate(REQUESTS))),), "reqps", "stat", 4),
    Panel("Tokens", "Per second.", (Query(total(rate(TOKENS, 'kind=~"prompt|completion"'))),), "short", "stat", 4),
    Panel("Spend", "USD per hour.", (Query(f"3600 * {total(rate('tidegate_usd_total'))}"),), "currencyUSD", "stat", 4),
    Panel("Incidents", "Open incidents.", (Query(total(gauge("tidegate_incidents_active"))),), "short", "stat", 4),
    Panel("Blocked", "Clients blocked now.", (Query(f"max({gauge('tidegate_blocks_active')})"),), "short", "stat", 4),
    Panel("Store", "1 if all workers reach the store.", (Query(f"min({gauge('tidegate_store_up')})"),), "short", "stat", 4),
    Panel("Requests by action", "limit, throttle and block include refused requests.", (Query(total(rate(REQUESTS), "action"), "{{action}}"),), "reqps", stacked=True),
    Panel("Responses by status", "Of the gateway and of upstreams.", (Query(total(rate(REQUESTS), "status"), "{{status}}"),), "reqps", stacked=True),
    Panel("Requests by tenant", "Per second.", (Query(total(rate(REQUESTS), "tenant"), "{{tenant}}"),), "reqps", stacked=True),
    Panel("Tokens by kind", "Cached tokens are part of prompt, reasoning tokens part of completion.", (Query(total(rate(TOKENS), "kind"), "{{kind}}"),)),
    Panel("Request duration", "First byte of the request to last byte of the response.", quantiles("tidegate_request_duration_seconds"), "s"),
    Panel("Time to first byte", "From the request to the first byte of the response.", quantiles("tidegate_ttfb_seconds"), "s"),
    Panel("Requests by outcome", "Without ok: upstream failures, disconnected clients.", (Query(total(rate("tidegate_outcomes_total", 'outcome!="ok"'), "outcome"), "{{outcome}}"),), "reqps"),
    Panel("In flight", "Requests, client connections and upstream connections.", (Query(total(gauge("tidegate_inflight")), "requests"), Query(total(gauge("tidegate_connections")), "client connections"), Query(total(gauge("tidegate_upstream_connections")), "upstream connections"))),
)  # fmt: skip

ABUSE = (
    Panel("Incidents opened", "In the selected time range, by class.", (Query(total(f"increase(tidegate_incidents_total{{{JOB}}}[$__range])", "class"), "{{class}}"),), "short", "stat", 24),
    Panel("Open incidents", "By gateway.", (Query(total(gauge("tidegate_incidents_active"), "instance"), "{{instance}}"),)),
    Panel("Blocked, tagged, throttled", "Number of clients.", (Query(f"max({gauge('tidegate_blocks_active')})", "blocked"), Query(f"max({gauge('tidegate_standings_active')})", "tagged or throttled"))),
    Panel("Refused requests", "By limits, throttles and blocks.", (Query(total(rate(REQUESTS, REFUSED), "action"), "{{action}}"),), "reqps", stacked=True),
    Panel("Refused share", "Of all requests, by tenant.", (Query(f"{total(rate(REQUESTS, REFUSED), 'tenant')} / {total(rate(REQUESTS), 'tenant')}", "{{tenant}}"),), "percentunit"),
    Panel("Actions in observe mode", "Not enforced.", (Query(total(rate("tidegate_observed_actions_total"), "tenant", "action"), "{{tenant}} {{action}}"),), "reqps"),
    Panel("Refused before admission", "Malformed requests, connection caps.", (Query(total(rate("tidegate_turned_away_total"), "reason"), "{{reason}}"),), "reqps"),
    Panel("Detection", "Requests per second; verdicts queued for the store.", (Query(total(rate("tidegate_detected_events_total")), "requests"), Query(total(gauge("tidegate_verdicts_waiting")), "verdicts queued"))),
    Panel("Alerts", "Deliveries by result; pending alerts.", (Query(total(rate("tidegate_alerts_total"), "type", "result"), "{{type}} {{result}}"), Query(total(gauge("tidegate_alerts_pending")), "pending"))),
)  # fmt: skip

MONEY = (
    Panel("Spend", "USD in the selected time range.", (Query(total(f"increase(tidegate_usd_total{{{JOB}}}[$__range])")),), "currencyUSD", "stat", 8),
    Panel("Spend rate", "USD per hour.", (Query(f"3600 * {total(rate('tidegate_usd_total'))}"),), "currencyUSD", "stat", 8),
    Panel("Unpriced requests", "In the selected time range.", (Query(total(f"increase(tidegate_unpriced_requests_total{{{JOB}}}[$__range])")),), "short", "stat", 8),
    Panel("Spend by tenant", "USD per hour, by the price table.", (Query(f"3600 * {total(rate('tidegate_tenant_usd_total'), 'tenant')}", "{{tenant}}"),), "currencyUSD", stacked=True),
    Panel("Spend by model", "USD per hour, by the price table.", (Query(f"3600 * {total(rate('tidegate_tenant_usd_total'), 'model')}", "{{model}}"),), "currencyUSD", stacked=True),
    Panel("Tokens by model", "Per second.", (Query(total(rate(TOKENS, 'kind=~"prompt|completion"'), "model"), "{{model}}"),), stacked=True),
    Panel("Source of token counts", "upstream: reported by the provider, exact.", (Query(total(rate("tidegate_usage_total"), "source"), "{{source}}"),), "reqps"),
)  # fmt: skip

HEALTH = (
    Panel("Workers ready", "By gateway.", (Query(gauge("tidegate_workers_ready"), "{{instance}}"),), "short", "stat", 8),
    Panel("Configuration", "1 if the last reload succeeded.", (Query(gauge("tidegate_config_reload_success"), "{{instance}}"),), "short", "stat", 8),
    Panel("Version", "Gateways by version.", (Query(f"count by (version) (tidegate_build_info{{{JOB}}})", "{{version}}"),), "short", "stat", 8),
    Panel("Gateway overhead", "Including the wait for the store.", quantiles("tidegate_overhead_seconds"), "s"),
    Panel("Check time", "Identify, admit and score a request.", quantiles("tidegate_check_seconds"), "s"),
    Panel("Store latency", "Per request.", quantiles("tidegate_store_seconds"), "s"),
    Panel("Store calls", "Calls, their operations, and timeouts per second.", (Query(total(rate("tidegate_store_calls_total")), "calls"), Query(total(rate("tidegate_store_ops_total")), "operations"), Query(total(rate("tidegate_store_timeouts_total")), "timeouts")), "ops"),
    Panel("Store outages", "Open circuit breakers; queued settlements.", (Query(total(gauge("tidegate_store_breakers_open")), "breakers"), Query(total(gauge("tidegate_store_journal_entries")), "settlements"))),
    Panel("Records lost", "Per second, by reason.", (Query(total(rate("tidegate_records_dropped_total"), "reason"), "{{reason}}"), Query(total(rate("tidegate_influx_records_total", 'result="dropped"')), "InfluxDB"))),
    Panel("Records queued", "Bytes in worker rings; records for InfluxDB.", (Query(total(gauge("tidegate_records_waiting_bytes")), "bytes"), Query(total(gauge("tidegate_influx_waiting")), "InfluxDB"))),
    Panel("Spans", "OpenTelemetry, per second: exported, failed at the collector, dropped because the queue was full.", (Query(total(rate("tidegate_spans_total"), "result"), "{{result}}"),)),
    Panel("Restarts", "Of child processes, per hour.", (Query(total(f"increase(tidegate_restarts_total{{{JOB}}}[1h])", "child"), "{{child}}"),)),
)  # fmt: skip

BOARDS: dict[str, tuple[str, tuple[Panel, ...]]] = {
    "tidegate-now": ("Tidegate: overview", NOW),
    "tidegate-abuse": ("Tidegate: abuse", ABUSE),
    "tidegate-money": ("Tidegate: tokens and spend", MONEY),
    "tidegate-health": ("Tidegate: health", HEALTH),
}


def board(uid: str) -> dict[str, Any]:
    """One dashboard as Grafana JSON."""
    title, panels = BOARDS[uid]
    return {
        "uid": uid,
        "title": title,
        "tags": ["tidegate"],
        "timezone": "browser",
        "editable": True,
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source(), _choice("job", ""), _choice("instance", 'job=~"$job"')]},
        "links": [_link()],
        "panels": list(_placed(panels)),
    }  # fmt: skip


def _source() -> dict[str, Any]:
    return {
        "name": "source",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "hide": 0,
    }


def _choice(label: str, match: str) -> dict[str, Any]:
    query = f"label_values(tidegate_build_info{{{match}}}, {label})"
    return {
        "name": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": label},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"text": ["All"], "value": ["$__all"]},
        "hide": 0,
    }


def _link() -> dict[str, Any]:
    return {
        "title": "Tidegate",
        "type": "dashboards",
        "tags": ["tidegate"],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "icon": "",
        "tooltip": "",
        "url": "",
    }


def _placed(panels: tuple[Panel, ...]) -> list[dict[str, Any]]:
    placed, x, y, high = [], 0, 0, 0
    for number, panel in enumerate(panels, 1):
        if x + panel.wide > WIDTH:
            x, y = 0, y + high
        high = HEIGHT // 2 if panel.kind == "stat" else HEIGHT
        place = {"x": x, "y": y, "w": panel.wide, "h": high}
        placed.append(_panel(number, panel) | {"gridPos": place})
        x += panel.wide
    return placed


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    custom: dict[str, Any] = {}
    options: dict[str, Any] = {"reduceOptions": {"calcs": ["lastNotNull"]}}
    if panel.kind == "timeseries":
        stacking = "normal" if panel.stacked else "none"
        fill = 30 if panel.stacked else 0
        custom = {"fillOpacity": fill, "stacking": {"mode": stacking, "group": "A"}}
        options = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }  # fmt: skip
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": custom},
            "overrides": [],
        },
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend or "__auto",
                "range": True,
            }
            for place, query in enumerate(panel.queries)
        ],
    }


def rendered(uid: str) -> str:
    """The file content of a dashboard."""
    return json.dumps(board(uid), indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write or check the files; returns the exit code."""
    stale = []
    FOLDER.mkdir(exist_ok=True)
    for uid in BOARDS:
        path = FOLDER / f"{uid}.json"
        text = rendered(uid)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
            if "--check" not in arguments:
                path.write_text(text, encoding="utf-8")
    if stale and "--check" in arguments:
        print("differs from the output of boards.py:", *stale)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
