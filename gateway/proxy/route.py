"""Routes: upstreams with their pools, chosen by the longest path prefix."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from gateway.proxy.cors import AllowedOrigins

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.config.resolve import ResolvedRoute
    from gateway.http.handler import UpstreamAddress
    from gateway.http.pool import Pool


# Seconds for which the gateway remembers what an upstream refused, so that it writes the
# next requests of a tenant and model in another form.
UNASKED_S = 600.0
# Beyond it the oldest is forgotten, so that its next request is sent twice.
UNASKED_MODELS_MAX = 256


class RefusedForms:
    """What an upstream refused, by tenant and model. Bounded, and forgotten with time.

    Only for one tenant: a client may have caused the error.
    """

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[float, str]] = {}

    def __len__(self) -> int:
        return len(self._found)

    def put(self, key: tuple[str, str], form: str = "-") -> None:
        """Remember the form that the upstream takes."""
        found = self._found
        found.pop(key, None)
        if len(found) >= UNASKED_MODELS_MAX:
            del found[next(iter(found))]
        found[key] = monotonic() + UNASKED_S, form

    def get(self, key: tuple[str, str]) -> str:
        """The form that the upstream took lately; "": the usual one."""
        until, form = self._found.get(key, (0.0, ""))
        return form if until > monotonic() else ""


class Route:
    """One upstream: its pool, its settings, and the answers that are being drained."""

    __slots__ = (
        "api_key",
        "ask_usage",
        "cap_names",
        "dialect",
        "drain_max",
        "drain_on_leave",
        "drain_s",
        "draining",
        "first_byte_s",
        "idle_s",
        "name",
        "origins",
        "pool",
        "prefix",
        "provider",
        "strip",
        "total_s",
        "trust_cost",
        "unasked_models",
        "websocket",
    )

    def __init__(self, config: ResolvedRoute, pool: Pool, provider: str = "") -> None:
        """``provider``: whose prices its answers have ("": unknown)."""
        self.name = config.name
        self.pool = pool
        self.prefix = config.prefix
        self.origins = AllowedOrigins()
        self.strip = config.strip_prefix
        self.dialect = config.dialect
        self.drain_on_leave = config.on_disconnect == "drain"
        self.drain_max = config.drain_max
        self.drain_s = config.drain_s
        self.draining = 0
        self.websocket = config.websocket
        self.provider = provider
        self.trust_cost = config.trust_cost
        self.ask_usage = config.ask_usage
        # Whose streams are sent without ``stream_options``, and the names of caps.
        self.unasked_models = RefusedForms()
        self.cap_names = RefusedForms()
        # Header field that replaces the client's credential.
        key = config.credential
        self.api_key = (key.header.encode(), key.value.encode()) if key else None
        self.first_byte_s = config.first_byte_s
        self.idle_s = config.idle_s
        self.total_s = config.total_s

    def remember_unasked(self, tenant: str, model: str) -> None:
        """Do not ask this model for usage for a while."""
        self.unasked_models.put((tenant, model))

    def is_unasked(self, tenant: str, model: str) -> bool:
        """Whether the upstream refused to be asked for this model's usage lately."""
        return bool(self.unasked_models.get((tenant, model)))

    def start_drain(self, *, ended: bool = False) -> bool:
        """Count one more drained answer; False: there are ``drain_max`` already.

        ``ended``: only the end of its framing is missing, so that it always fits.
        """
        if not ended and self.draining >= self.drain_max:
            return False
        self.draining += 1
        return True

    def end_drain(self) -> None:
        """Count a drained answer as ended."""
        self.draining -= 1

    def target_path(self, target: UpstreamAddress, path: bytes) -> bytes:
        """Request target as the upstream gets it; bytes of ``path`` untouched."""
        if self.strip and self.prefix and path != b"*":
            path = path[len(self.prefix) :]
            if not path.startswith(b"/"):
                path = b"/" + path
        if target.base_path and path != b"*":
            return target.base_path + path
        return path


def find_route(routes: Sequence[Route], path: str) -> Route | None:
    """The longest matching prefix on whole segments; ``routes`` come longest first."""
    if path == "*":  # OPTIONS for the whole server: the most general route
        return routes[-1] if routes else None
    for route in routes:
        prefix = route.prefix
        if not prefix:
            return route
        if path.startswith(prefix) and (
            len(path) == len(prefix) or path[len(prefix)] == "/"
        ):
            return route
    return None
