"""Client of a running gateway's admin API; standard library and msgspec only."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from gateway.commands.errors import RemoteError

ANSWER_BYTES_MAX = 64 << 20  # a block list of 100,000 entries has 15 MB
TIMEOUT_S = 10.0


class AdminClient:
    """Calls to one gateway's admin API. Every call raises RemoteError."""

    def __init__(self, base: str, token: str | None) -> None:
        """Raises RemoteError if ``base`` is not an address."""
        self.base = base.rstrip("/") if "://" in base else f"http://{base}"
        if not _is_address(self.base):
            raise RemoteError(f"{base!r} is not an address; use host:port", usage=True)
        self.token = token
        # Never through a proxy of the environment: it would see the token.
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def list_all(self, path: str, **query: str | None) -> list[dict[str, Any]]:
        """Every item of a list, read page by page; query values of None are left out."""
        items: list[dict[str, Any]] = []
        params = {name: value for name, value in query.items() if value is not None}
        while True:
            page = self._call("GET", f"{path}?{urlencode(params)}" if params else path)
            items += page["items"]
            if not page.get("next"):
                return items
            params["cursor"] = page["next"]

    def post(self, *path: str, timeout_s: float = TIMEOUT_S) -> Any:
        """POST without content to ``/api/v1/`` and these path segments."""
        return self._call("POST", _path(path), {}, timeout_s)

    def send(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        """POST ``content``; returns the created object."""
        answer: dict[str, Any] = self._call("POST", path, content)
        return answer

    def delete(self, *path: str) -> None:
        """DELETE at ``/api/v1/`` and these path segments."""
        self._call("DELETE", _path(path))

    def add_block(self, block: dict[str, Any]) -> dict[str, Any]:
        """Block a subject."""
        answer: dict[str, Any] = self._call("POST", "/api/v1/blocks", block)
        return answer

    def remove_block(self, kind: str, subject: str, tenant: str | None) -> None:
        """Remove a block."""
        query = f"?{urlencode({'tenant': tenant})}" if tenant else ""
        self._call("DELETE", _path(("blocks", kind, subject)) + query)

    def get(self, path: str) -> Any:
        """GET below ``/api/v1``."""
        return self._call("GET", f"/api/v1/{path}")

    def stream(self) -> Iterator[tuple[str, Any]]:
        """Live events (name, content). The end of the stream is an error, because a
        gateway sends events for as long as it runs.
        """
        request = urllib.request.Request(f"{self.base}/api/v1/stream")  # noqa: S310 - the operator's own address
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with self._open(request, timeout=TIMEOUT_S) as answer:
                yield from _events(answer)
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from None
        except (urllib.error.URLError, HTTPException, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise RemoteError(_unreachable(self.base, reason)) from None
        raise RemoteError(f"lost {self.base}: it ended the stream")

    def _call(
        self, method: str, path: str, content: Any = None, timeout_s: float = TIMEOUT_S
    ) -> Any:
        request = urllib.request.Request(self.base + path, method=method)  # noqa: S310 - the operator's own address
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        if content is not None:
            request.data = msgspec.json.encode(content)
            request.add_header("Content-Type", "application/json")
        try:
            with self._open(request, timeout=timeout_s) as answer:
                body = answer.read(ANSWER_BYTES_MAX)
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from None
        except (urllib.error.URLError, HTTPException, OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise RemoteError(_unreachable(self.base, reason)) from None
        return _decode(body)

    def _refusal(self, error: urllib.error.HTTPError) -> RemoteError:
        with error:
            content = _decode(error.read(ANSWER_BYTES_MAX))
        reason = content.get("error", content) if isinstance(content, dict) else ""
        if isinstance(reason, dict):
            reason = reason.get("message", "")
        if error.code in (401, 403):
            reason = reason or "not allowed"
            reason = f"{reason} (--token, or TIDEGATE_ADMIN_TOKEN)"
        text = f"{self.base} answered {error.code}: {reason or error.reason}"
        return RemoteError(text, usage=error.code in (400, 404, 422))


def _is_address(base: str) -> bool:
    try:
        parts = urlsplit(base)
        known = parts.scheme in ("http", "https") and parts.port != 0
    except ValueError:  # also: a port that is not a number
        return False
    return known and bool(parts.hostname)


def _path(segments: Iterable[str]) -> str:
    """A path under ``/api/v1``; slashes inside a segment are percent-encoded."""
    return "/api/v1/" + "/".join(quote(one, safe="") for one in segments)


def _events(lines: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    """Server-sent events with one line of JSON each, as (name, content)."""
    name = ""
    for line in lines:
        field, _, value = line.rstrip(b"\r\n").partition(b": ")
        if field == b"event":
            name = value.decode()
        elif field == b"data":
            yield name, _decode(value)


def _unreachable(base: str, reason: object) -> str:
    return (
        f"cannot reach {base}: {reason}; is the gateway running, and is this its admin"
        " address (--admin HOST:PORT, or admin.listen of the file)?"
    )


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body) if body else {}
    except msgspec.DecodeError:
        return {}
