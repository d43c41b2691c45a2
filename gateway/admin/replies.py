"""Parsing of requests and encoding of responses of the admin API."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from gateway.admin.clients import moment
from gateway.admin.errors import AdminError
from gateway.config.values import parse_duration
from gateway.core.model import DETECTOR, Block
from gateway.identity.cidr import Networks, normal_client_ip, parse_address, subject_of

MAX_LIMIT = 1000
DEFAULT_LIMIT = 100
MAX_ID_CHARS = 256
# Ten years; a permanent block has no ttl.
MAX_TTL_S = 10 * 365 * 86_400
SUBJECT_KINDS = ("client_ip", "user", "tenant")
# Kinds that operators can block, and kinds that can be listed: only detection blocks
# prompt templates.
BLOCK_KINDS = (*SUBJECT_KINDS, "network")
LISTED_KINDS = (*BLOCK_KINDS, "prompts")
T = TypeVar("T")
_COUNT = re.compile("[0-9]{1,9}")
# Fields of the audit entry of a request.
AUDIT_DETAILS: web.RequestKey[dict[str, str]] = web.RequestKey("about", dict)


def json_response(body: Any, status: int = 200) -> web.Response:
    """A JSON response of any value that msgspec can encode."""
    return web.Response(
        status=status, body=msgspec.json.encode(body), content_type="application/json"
    )


def page_response(
    request: web.Request, items: Sequence[Any], extra: dict[str, Any] | None = None
) -> web.Response:
    """The requested page of ``items`` as ``{"items", "next"}`` plus ``extra``."""
    start, limit = read_page(request)
    more = str(start + limit) if start + limit < len(items) else None
    page = {"items": items[start : start + limit], "next": more}
    return json_response(page | (extra or {}))


def read_page(request: web.Request) -> tuple[int, int]:
    """Read ``cursor`` and ``limit`` of the query. Raises AdminError."""
    start = read_count(request, "cursor", 0)
    limit = read_count(request, "limit", DEFAULT_LIMIT)
    if start is None or limit is None or not 1 <= limit <= MAX_LIMIT:
        raise AdminError(
            400,
            "bad_page",
            f"limit must be 1 to {MAX_LIMIT}, cursor the `next` of a page",
        )
    return start, limit


def read_count(request: web.Request, name: str, default: int) -> int | None:
    """An integer of the query; None if it is not one."""
    given = request.query.get(name)
    if given is None:
        return default
    return int(given) if _COUNT.fullmatch(given) else None


def read_choice(request: web.Request, name: str, choices: Sequence[str]) -> str | None:
    """A query parameter with fixed values; None if absent. Raises AdminError."""
    given = request.query.get(name)
    if given is not None and given not in choices:
        text = f"{name} must be one of {', '.join(choices)}"
        raise AdminError(400, f"bad_{name}", text)
    return given


async def read_body(request: web.Request, kind: type[T]) -> T:
    """Decode the JSON body. Raises AdminError with the reason."""
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AdminError(400, "bad_body", str(error)) from error


def read_ttl(ttl: str | float | None) -> float | None:
    """A duration in seconds; None stays None. Raises AdminError."""
    try:
        seconds = parse_duration(ttl) if isinstance(ttl, str) else ttl
    except ValueError as error:
        raise AdminError(400, "bad_ttl", str(error)) from error
    if seconds is not None and not 0 < seconds <= MAX_TTL_S:
        raise AdminError(400, "bad_ttl", "ttl must be more than 0 and at most 10 years")
    return seconds


def read_subject(request: web.Request, kinds: Sequence[str]) -> tuple[str, str]:
    """Kind and normalized id of the path. Raises AdminError."""
    kind = request.match_info["kind"]
    if kind not in kinds:
        raise AdminError(400, "bad_kind", f"kind must be one of {', '.join(kinds)}")
    return kind, normal_id(kind, request.match_info["id"])


def normal_id(kind: str, id_: str) -> str:
    """The id in the form used by limits and blocks. Raises AdminError."""
    if not 0 < len(id_) <= MAX_ID_CHARS:
        raise AdminError(400, "bad_id", f"id must have 1 to {MAX_ID_CHARS} characters")
    if kind == "client_ip":
        return _normal_ip(id_)
    if kind == "network":
        try:
            Networks([id_])
        except ValueError as error:
            raise AdminError(400, "bad_id", f"not a network: {error}") from error
    elif kind not in LISTED_KINDS:
        raise AdminError(
            400, "bad_kind", f"kind must be one of {', '.join(BLOCK_KINDS)}"
        )
    return id_


def _normal_ip(id_: str) -> str:
    address = parse_address(id_.partition("/")[0])
    name = normal_client_ip(id_)
    if address is None or name != subject_of(address):
        raise AdminError(
            400,
            "bad_id",
            f"{id_!r} is not an IP address; use kind network for networks",
        )
    return name


def public_block(block: Block) -> dict[str, Any]:
    """A block as the API shows it."""
    return {
        "kind": block.kind,
        "id": block.id,
        "tenant": block.tenant,
        "until": None if block.until is None else moment(block.until),
        "reason": block.reason,
        "created_at": moment(block.created_at),
        "by": block.by,
        "action": public_action(block),
        "class": block.cls or None,
        "score": block.score,
        "rate": block.rate,
    }


def public_action(block: Block) -> str:
    """The action; an operator's "tag" means "allow"."""
    return "allow" if block.by != DETECTOR and block.action == "tag" else block.action


def set_audit_details(
    request: web.Request, what: str, kind: str = "", id_: str = ""
) -> None:
    """Set the fields of the audit entry of this request."""
    request[AUDIT_DETAILS] = {
        "what": what[:MAX_ID_CHARS],
        "kind": kind[:MAX_ID_CHARS],
        "id": id_[:MAX_ID_CHARS],
    }
