"""The OpenAPI 3.1 document of the admin API, generated from one table of routes."""

from __future__ import annotations

from functools import cache
from typing import Any

from gateway import __version__
from gateway.alerts.weekly import DAYS

_TEXT = {"type": "string"}
_NUMBER = {"type": "number"}
_COUNT = {"type": "integer"}
_WHEN = {"type": "string", "format": "date-time"}
_CURSOR = {"type": "string", "pattern": "^[0-9]{1,9}$"}
_KIND = {"type": "string", "enum": ["client_ip", "user", "tenant"]}
_BLOCK_KIND = {"type": "string", "enum": ["client_ip", "user", "tenant", "network"]}
_LISTED_KIND = {"type": "string", "enum": [*_BLOCK_KIND["enum"], "prompts"]}
_ID = {"type": "string", "minLength": 1, "maxLength": 256}
_SORT = {"enum": ["now", "tokens", "requests", "usd", "score", "recent"]}
_STATE = {"type": "string", "enum": ["open", "resolved"]}
_ACTION = {"enum": ["allow", "tag", "throttle", "limit", "block"]}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _record(required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required.split(), "properties": properties}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(items: dict[str, Any], required: str = "", **more: Any) -> dict[str, Any]:
    found = _record(f"items next {required}", items={"type": "array", "items": items})
    found["properties"] |= {"next": _or_null(_CURSOR)} | more
    return found


_CLOCK = {"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"}
_WEEKDAYS = {
    "type": "array",
    "items": {"enum": list(DAYS)},
    "minItems": 1,
}
_ROWS = {"type": "array", "items": {"type": "object"}}
_SCHEMAS: dict[str, Any] = {
    "Error": _record("error", error=_record("code message request_id", code=_TEXT, message=_TEXT, request_id=_TEXT)),
    "Subject": _record("kind id", kind=_TEXT, id=_TEXT),
    "Block": _record(
        "kind id tenant until reason created_at by action",
        kind=_LISTED_KIND, id=_TEXT, tenant=_or_null(_TEXT), until=_or_null(_WHEN),
        reason=_TEXT, created_at=_WHEN, by=_TEXT, action=_ACTION,
        score=_NUMBER, rate=_COUNT,
    ),
    "NewBlock": _record(
        "kind id",
        kind=_BLOCK_KIND, id=_ID, tenant=_or_null(_TEXT),
        ttl={"anyOf": [_TEXT, _NUMBER, {"type": "null"}]}, reason=_TEXT,
        action={"type": "string", "enum": ["block", "allow"]},
    ) | {"additionalProperties": False},
    "Client": _record(
        "kind id tenant key requests tokens usd limited score action last_seen standing",
        kind=_KIND, id=_TEXT, tenant=_TEXT, key=_TEXT, requests=_COUNT, tokens=_COUNT,
        usd=_NUMBER, limited=_COUNT, score=_NUMBER, action=_ACTION, last_seen=_WHEN,
        requests_1m=_NUMBER, expected_1m=_or_null(_NUMBER),
        standing=_or_null(_ref("Block")),
    ),
    "ClientPage": _record(
        "kind id usage limits blocks usual records said changes",
        kind=_KIND, id=_TEXT,
    ),
    "Incident": _record(
        "id type ts severity class score subject tenant action window reasons state"
        " opened_at acknowledged held standing standing_since",
        id=_TEXT, ts=_WHEN, severity={"enum": ["info", "warning", "critical"]},
        score=_NUMBER, subject=_ref("Subject"), tenant=_TEXT, action=_ACTION,
        reasons={"type": "array", "items": _TEXT}, state=_STATE, opened_at=_WHEN,
        acknowledged=_or_null(_record("at by", at=_WHEN, by=_TEXT)),
        held=_record("block throttle tag", block=_COUNT, throttle=_COUNT, tag=_COUNT),
        standing=_or_null(_ref("Block")), standing_since=_or_null(_NUMBER),
    ),
    "IncidentPage": {"allOf": [_ref("Incident"), _record(
        "story steps clients clients_total changes timeline impact",
        story=_ROWS, steps=_ROWS, clients=_ROWS, clients_total=_COUNT, changes=_ROWS,
    )]},
    "Bucket": _record(
        "at requests tokens usd errors refused overhead_ms expected_rps notable_rps",
        at=_COUNT, requests=_COUNT, tokens=_COUNT, usd=_NUMBER, errors=_COUNT,
        refused=_COUNT, overhead_ms=_NUMBER, expected_rps=_or_null(_NUMBER),
        notable_rps=_or_null(_NUMBER),
    ),
    "Silence": _record(
        "id tenant class subject from to repeat state reason by",
        repeat=_or_null(_ref("Repeat")), id=_TEXT, tenant=_TEXT, subject=_TEXT, to=_WHEN, reason=_TEXT, by=_TEXT,
        state={"enum": ["pending", "active", "over"]},
    ),
    "NewSilence": _record(
        "",
        tenant=_TEXT, subject=_TEXT, reason=_TEXT,
        ttl={"anyOf": [_TEXT, _NUMBER, {"type": "null"}]}, to=_or_null(_WHEN),
        repeat=_or_null(_ref("NewRepeat")),
        **{"class": _TEXT, "from": _or_null(_WHEN)},
    ) | {"additionalProperties": False},
    "Repeat": _record(
        "days from to zone until", days=_WEEKDAYS, to=_CLOCK, zone=_TEXT,
        until=_or_null(_WHEN), **{"from": _CLOCK},
    ),
    "NewRepeat": _record(
        "days from to", days=_WEEKDAYS, to=_CLOCK, zone=_TEXT, **{"from": _CLOCK},
    ) | {"additionalProperties": False},
    "Session": _record(
        "role csrf needed",
        role={"enum": ["viewer", "operator", None]}, csrf=_TEXT,
        needed={"type": "boolean"},
    ),
}  # fmt: skip

_PATH_PARAMETERS = {
    "kind": _KIND,
    "id": _ID,
    "name": _ID,
}
_QUERIES = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 1000},
    "cursor": _CURSOR,
    "sort": {"type": "string", **_SORT},
    "kind": _KIND,
    "tenant": _TEXT,
    "q": {"type": "string", "maxLength": 256},
    "state": _STATE,
    "alert": {"type": "string", "enum": ["sent", "pending", "dead"]},
    "class": _TEXT,
    "minutes": {"type": "integer", "minimum": 1, "maximum": 1440},
    "last": _TEXT,
    "undo": {"type": "string", "enum": ["true", "false"]},
}
_PAGE = "limit cursor"
_INCIDENT = "/api/v1/incidents/{id}"
_CLIENT = "/api/v1/clients/{kind}/{id}"
_ANY: dict[str, Any] = {"type": "object"}

# Method, path, summary, query parameters, body, status, response, error statuses.
_Row = tuple[str, str, str, str, str, int, dict[str, Any] | None, str]
_ROUTES: tuple[_Row, ...] = (
    ("get", "/api/v1/status", "State of every component", "", "", 200, _ANY, ""),
    ("get", "/api/v1/policies", "Effective policies, refusals in observe mode, spend",
     _PAGE, "", 200, _list(_ANY), "400"),
    ("post", "/api/v1/reload", "Reload the configuration", "", "", 200, _ANY, "422"),
    ("get", "/api/v1/blocks", "Active blocks", f"{_PAGE} tenant", "", 200,
     _list(_ref("Block")), "400"),
    ("post", "/api/v1/blocks", "Block or allow a subject", "", "NewBlock", 201,
     _ref("Block"), "400 413 503 507"),
    ("delete", "/api/v1/blocks/{kind}/{id}", "Remove a block or an allow entry",
     "tenant undo", "", 204, None, "400 404 503 507"),
    ("post", "/api/v1/blocks/{kind}/{id}/restore", "Restore entries removed in the last 15 minutes", "",
     "", 200, _record("items", items={"type": "array", "items": _ref("Block")}),
     "400 404 503 507"),
    ("get", "/api/v1/standings", "Tagged, throttled and allowed subjects", _PAGE, "",
     200, _list(_ref("Block")), "400"),
    ("get", "/api/v1/clients", "Clients of the last hour",
     f"{_PAGE} sort kind tenant q", "", 200, _list(_ref("Client")), "400"),
    ("get", _CLIENT, "One client", "tenant", "", 200, _ref("ClientPage"),
     "400 404 503"),
    ("post", f"{_CLIENT}/reset", "Reset the limit counters of a client", "tenant", "", 200, _ANY,
     "400 503"),
    ("get", "/api/v1/incidents", "Open and recent incidents",
     f"{_PAGE} state class", "", 200, _list(_ref("Incident")), "400"),
    ("get", _INCIDENT, "One incident", "", "", 200, _ref("IncidentPage"), "404"),
    ("post", f"{_INCIDENT}/acknowledge", "Acknowledge an incident", "", "", 200,
     _ref("Incident"), "404 503"),
    ("post", f"{_INCIDENT}/resolve", "Resolve an incident", "", "", 200, _ref("Incident"),
     "404 503"),
    ("post", f"{_INCIDENT}/undo", "Remove all restrictions of an incident", "", "", 200,
     _record("undone block throttle tag", undone=_COUNT), "404 503"),
    ("post", f"{_INCIDENT}/restore", "Restore restrictions undone in the last 15 minutes", "", "", 200,
     _record("restored block throttle tag", restored=_COUNT), "404 503 507"),
    ("get", "/api/v1/timeline", "Received and expected traffic over time", "minutes", "",
     200, _record("step_s from to items", step_s=_COUNT,
                  items={"type": "array", "items": _ref("Bucket")}), "400"),
    ("get", "/api/v1/stream", "Server-sent events", "last", "", 200, {}, "503"),
    ("get", "/api/v1/audit", "Audit log of operator actions", _PAGE, "", 200, _list(_ANY), "400"),
    ("get", "/api/v1/alerts", "Alert targets and messages", f"{_PAGE} alert", "", 200,
     _list(_ANY, "targets pending", targets={"type": "array"}, pending=_COUNT), "400"),
    ("post", "/api/v1/alerts/{id}/resend", "Resend a dead letter", "", "", 202,
     {"type": "object", "required": ["resent"],
      "properties": {"resent": {"type": "integer"}}}, "404 503"),
    ("post", "/api/v1/alerts/targets/{name}/test", "Send a test alert", "", "", 202, None,
     "404 502"),
    ("get", "/api/v1/silences", "Silences and maintenance windows", _PAGE, "", 200,
     _list(_ref("Silence")), "400"),
    ("post", "/api/v1/silences", "Add a silence or maintenance window", "",
     "NewSilence", 201, _ref("Silence"), "400 413 503 507"),
    ("delete", "/api/v1/silences/{id}", "End a silence", "", "", 204, None, "404 503"),
    ("get", "/api/v1/session", "Current session", "", "", 200, _ref("Session"), ""),
    ("post", "/api/v1/session", "Sign in: exchange a token for a session cookie", "", "Login", 200,
     _ref("Session"), "400 413"),
    ("delete", "/api/v1/session", "Sign out", "", "", 204, None, ""),
    ("get", "/api/v1/openapi.json", "This document", "", "", 200, _ANY, ""),
)  # fmt: skip
_ALWAYS = ("401", "403", "429")


@cache
def document() -> dict[str, Any]:
    """Build the document."""
    paths: dict[str, Any] = {}
    for row in _ROUTES:
        paths.setdefault(row[1], {})[row[0]] = _operation(row)
    login = _record("token", token=_TEXT) | {"additionalProperties": False}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tidegate admin API", "version": __version__},
        "security": [{"token": []}, {"session": []}],
        "paths": paths,
        "components": {
            "schemas": _SCHEMAS | {"Login": login},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "tidegate_session",
                },
            },
        },
    }


def _operation(row: _Row) -> dict[str, Any]:
    method, path, summary, query, body, good, answer, errors = row
    found: dict[str, Any] = {
        "summary": summary,
        "operationId": f"{method}_{path.removeprefix('/api/v1/').replace('/', '_')}",
        "parameters": [*_path_parameters(path), *map(_query_parameter, query.split())],
        "responses": {str(good): _response(path, answer)}
        | {code: _error() for code in (*errors.split(), *_ALWAYS)},
    }
    if body:
        content = {"application/json": {"schema": _ref(body)}}
        found["requestBody"] = {"required": True, "content": content}
    return found


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    kinds = _PATH_PARAMETERS | ({"kind": _LISTED_KIND} if "/blocks/" in path else {})
    return [
        {"name": name, "in": "path", "required": True, "schema": kinds[name]}
        for name in names
    ]


def _query_parameter(name: str) -> dict[str, Any]:
    shown = "state" if name == "alert" else name
    return {"name": shown, "in": "query", "schema": _QUERIES[name]}


def _response(path: str, schema: dict[str, Any] | None) -> dict[str, Any]:
    if schema is None:
        return {"description": "Success"}
    kind = "text/event-stream" if path.endswith("/stream") else "application/json"
    return {"description": "Success", "content": {kind: {"schema": schema}}}


def _error() -> dict[str, Any]:
    content = {"application/json": {"schema": _ref("Error")}}
    return {"description": "Error", "content": content}
