"""Grafana boards as code.

usage: python deploy/grafana/boards.py [--check]

Writes ``boards/*.json`` beside this file; with ``--check`` it says whether they are
what this program would write.
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
    """PromQL, and how a series is named."""

    expr: str
    legend: str = ""


class Panel(NamedTuple):
    """One picture; ``wide`` of 24 columns, ``kind`` ``timeseries`` or ``stat``."""

    title: str
    text: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"
    wide: int = 12
    stacked: bool = False


def rate(metric: str, more: str = "") -> str:
    """Per second, of the gateways chosen."""
    return f"rate({metric}{{{JOB}{', ' + more if more else ''}}}[{RANGE}])"


def total(expr: str, *by: str) -> str:
    """Summed over everything but ``by``."""
    return f"sum by ({', '.join(by)}) ({expr})" if by else f"sum({expr})"


def quantiles(metric: str) -> tuple[Query, ...]:
    """Median, 95 and 99 of 100 of a histogram."""
    buckets = total(rate(f"{metric}_bucket"), "le")
    return tuple(
        Query(f"histogram_quantile({q}, {buckets})", f"{100 * q:g} %")
        for q in (0.5, 0.95, 0.99)
    )


def gauge(metric: str) -> str:
    """A gauge of the gateways chosen."""
    return f"{metric}{{{JOB}}}"


REQUESTS, TOKENS = "tidegate_requests_total", "tidegate_tokens_total"
REFUSED = 'action=~"limit|throttle|block", status=~"4.."'

NOW = (
    Panel("Requests", "A second.", (Query(total(rate(REQUESTS))),), "reqps", "stat", 4),
    Panel("Tokens", "A second.", (Query(total(rate(TOKENS, 'kind=~"prompt|completion"'))),), "short", "stat", 4),
    Panel("Dollars", "An hour.", (Query(f"3600 * {total(rate('tidegate_usd_total'))}"),), "currencyUSD", "stat", 4),
    Panel("Incidents", "Open now.", (Query(total(gauge("tidegate_incidents_active"))),), "short", "stat", 4),
    Panel("Blocked", "Clients, now.", (Query(f"max({gauge('tidegate_blocks_active')})"),), "short", "stat", 4),
    Panel("Store", "1: every worker reaches it.", (Query(f"min({gauge('tidegate_store_up')})"),), "short", "stat", 4),
    Panel("Requests by what was done", "Refused ones have a limit, a throttle or a block.", (Query(total(rate(REQUESTS), "action"), "{{action}}"),), "reqps", stacked=True),
    Panel("Answers by status", "Of the gateway and of upstreams.", (Query(total(rate(REQUESTS), "status"), "{{status}}"),), "reqps", stacked=True),
    Panel("Requests by tenant", "Who is busy.", (Query(total(rate(REQUESTS), "tenant"), "{{tenant}}"),), "reqps", stacked=True),
    Panel("Tokens by kind", "Cached and reasoning tokens are parts of the others.", (Query(total(rate(TOKENS), "kind"), "{{kind}}"),)),
    Panel("Time of a request", "From its first byte to the answer's last.", quantiles("tidegate_request_duration_seconds"), "s"),
    Panel("Time to first byte", "Of the answer.", quantiles("tidegate_ttfb_seconds"), "s"),
    Panel("How exchanges ended", "Failures of upstreams and clients that left.", (Query(total(rate("tidegate_outcomes_total", 'outcome!="ok"'), "outcome"), "{{outcome}}"),), "reqps"),
    Panel("Open now", "Exchanges, and connections of clients and to upstreams.", (Query(total(gauge("tidegate_inflight")), "exchanges"), Query(total(gauge("tidegate_connections")), "clients"), Query(total(gauge("tidegate_upstream_connections")), "upstreams"))),
)  # fmt: skip

ABUSE = (
    Panel("Incidents opened", "In the time shown, by class.", (Query(total(f"increase(tidegate_incidents_total{{{JOB}}}[$__range])", "class"), "{{class}}"),), "short", "stat", 24),
    Panel("Incidents open", "Each is one cause.", (Query(total(gauge("tidegate_incidents_active"), "instance"), "{{instance}}"),)),
    Panel("Blocked, tagged, throttled", "Clients, now.", (Query(f"max({gauge('tidegate_blocks_active')})", "blocked"), Query(f"max({gauge('tidegate_standings_active')})", "tagged or throttled"))),
    Panel("Refused", "By limits, throttles and blocks.", (Query(total(rate(REQUESTS, REFUSED), "action"), "{{action}}"),), "reqps", stacked=True),
    Panel("Share refused", "Of all requests, by tenant.", (Query(f"{total(rate(REQUESTS, REFUSED), 'tenant')} / {total(rate(REQUESTS), 'tenant')}", "{{tenant}}"),), "percentunit"),
    Panel("What observe mode would have done", "Nothing was done.", (Query(total(rate("tidegate_observed_actions_total"), "tenant", "action"), "{{tenant}} {{action}}"),), "reqps"),
    Panel("Turned away before admission", "Wire rules, caps on connections.", (Query(total(rate("tidegate_turned_away_total"), "reason"), "{{reason}}"),), "reqps"),
    Panel("Requests seen by detection", "A second; verdicts that wait for the store.", (Query(total(rate("tidegate_detected_events_total")), "requests"), Query(total(gauge("tidegate_verdicts_waiting")), "verdicts waiting"))),
    Panel("Alerts", "Sent, by result; waiting.", (Query(total(rate("tidegate_alerts_total"), "type", "result"), "{{type}} {{result}}"), Query(total(gauge("tidegate_alerts_pending")), "waiting"))),
)  # fmt: skip

MONEY = (
    Panel("Spent", "Dollars, in the time shown.", (Query(total(f"increase(tidegate_usd_total{{{JOB}}}[$__range])")),), "currencyUSD", "stat", 8),
    Panel("An hour", "At the present rate.", (Query(f"3600 * {total(rate('tidegate_usd_total'))}"),), "currencyUSD", "stat", 8),
    Panel("Without a price", "Requests, in the time shown.", (Query(total(f"increase(tidegate_unpriced_requests_total{{{JOB}}}[$__range])")),), "short", "stat", 8),
    Panel("Dollars an hour by tenant", "By the price table.", (Query(f"3600 * {total(rate('tidegate_tenant_usd_total'), 'tenant')}", "{{tenant}}"),), "currencyUSD", stacked=True),
    Panel("Dollars an hour by model", "By the price table.", (Query(f"3600 * {total(rate('tidegate_tenant_usd_total'), 'model')}", "{{model}}"),), "currencyUSD", stacked=True),
    Panel("Tokens by model", "A second.", (Query(total(rate(TOKENS, 'kind=~"prompt|completion"'), "model"), "{{model}}"),), stacked=True),
    Panel("Where counts came from", "The provider's own are exact.", (Query(total(rate("tidegate_usage_total"), "source"), "{{source}}"),), "reqps"),
)  # fmt: skip

HEALTH = (
    Panel("Workers ready", "By gateway.", (Query(gauge("tidegate_workers_ready"), "{{instance}}"),), "short", "stat", 8),
    Panel("Configuration", "1: the last reading was fine.", (Query(gauge("tidegate_config_reload_success"), "{{instance}}"),), "short", "stat", 8),
    Panel("Version", "That runs.", (Query(f"count by (version) (tidegate_build_info{{{JOB}}})", "{{version}}"),), "short", "stat", 8),
    Panel("Time spent in the gateway", "The wait for the store included.", quantiles("tidegate_overhead_seconds"), "s"),
    Panel("Identify, admit, score", "Of one request.", quantiles("tidegate_check_seconds"), "s"),
    Panel("Waiting for the store", "Of one call.", quantiles("tidegate_store_seconds"), "s"),
    Panel("Store", "Calls, and operations in them, a second.", (Query(total(rate("tidegate_store_calls_total")), "calls"), Query(total(rate("tidegate_store_ops_total")), "operations"), Query(total(rate("tidegate_store_timeouts_total")), "timeouts")), "ops"),
    Panel("Away from the store", "Workers that limit on their own; settlements that wait.", (Query(total(gauge("tidegate_store_breakers_open")), "breakers"), Query(total(gauge("tidegate_store_journal_entries")), "settlements"))),
    Panel("Records lost", "A second, by reason.", (Query(total(rate("tidegate_records_dropped_total"), "reason"), "{{reason}}"), Query(total(rate("tidegate_influx_records_total", 'result="dropped"')), "InfluxDB"))),
    Panel("Records waiting", "Bytes in the rings; lines for InfluxDB.", (Query(total(gauge("tidegate_records_waiting_bytes")), "bytes"), Query(total(gauge("tidegate_influx_waiting")), "InfluxDB"))),
    Panel("Spans", "OpenTelemetry, a second: exported, failed at the collector, turned away for want of room.", (Query(total(rate("tidegate_spans_total"), "result"), "{{result}}"),)),
    Panel("Restarts", "Of children, in an hour.", (Query(total(f"increase(tidegate_restarts_total{{{JOB}}}[1h])", "child"), "{{child}}"),)),
)  # fmt: skip

BOARDS: dict[str, tuple[str, tuple[Panel, ...]]] = {
    "tidegate-now": ("Tidegate: now", NOW),
    "tidegate-abuse": ("Tidegate: abuse", ABUSE),
    "tidegate-money": ("Tidegate: tokens and money", MONEY),
    "tidegate-health": ("Tidegate: the gateway itself", HEALTH),
}


def board(uid: str) -> dict[str, Any]:
    """One board as Grafana reads it."""
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
    """The file of a board."""
    return json.dumps(board(uid), indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write, or check."""
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
        print("not what boards.py writes:", *stale)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
