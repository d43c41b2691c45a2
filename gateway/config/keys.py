"""Tables of client keys, and those that policies share with them: limits, models."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

Positive = Annotated[int, Meta(ge=1)]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A TOML table; unknown keys are errors."""


class LimitTable(Table, frozen=True):
    """Subject x meter x window, with exactly one meter."""

    per: str
    """`client_ip`, `user`, `tenant`, `model`, or two of them joined by `+`."""
    requests: Positive | None = None
    """Requests."""
    tokens: Positive | None = None
    """All tokens, by the provider's own total."""
    prompt_tokens: Positive | None = None
    """Prompt tokens."""
    completion_tokens: Positive | None = None
    """Completion tokens."""
    concurrent: Positive | None = None
    """Simultaneous exchanges; takes no window."""
    usd: Annotated[float, Meta(gt=0)] | None = None
    """US dollars, by the price table."""
    window: str | None = None
    """Sliding, `"1s"` to `"1d"`; or calendar: `"day"`, `"week"`, `"month"`."""


class ModelListTable(Table, frozen=True):
    """Models that clients may use, in any spelling: case, vendor prefix, date."""

    allow: tuple[str, ...] = ()
    """Names or patterns (`gpt-5*`); empty: every model that is not denied."""
    deny: tuple[str, ...] = ()
    """Names or patterns; goes before `allow`."""


class KeyLimitTable(LimitTable, frozen=True):
    """A limit of a client key."""

    per: str = "key"
    """`key`: all of its requests together; or as in policies."""


class KeyTable(Table, frozen=True):
    """A client key with a name, and what applies to it beside the policy."""

    name: str
    """Letters, digits, `.`, `_`, `-`; unique in the tenant. Shown in records and
    lists of clients."""
    hash: str
    """`sha256:…` of the key; `tidegate keys` makes it."""
    expires: datetime | None = None
    """Date or time from which the key is refused with 401 (without an offset: in
    `server.timezone`). `check` warns 14 days before."""
    policy: str | None = None
    """Replaces the tenant's policy for requests with this key."""
    limits: tuple[KeyLimitTable, ...] = ()
    """Added to those of the policy; `per` may be absent: all requests with this key."""
    models: ModelListTable | tuple[str, ...] | None = None
    """Models that the key may use, of those that the policy opens: `{ allow, deny }` or a
    list of allowed ones."""
    endpoints: tuple[str, ...] | None = None
    """Endpoints that the key may use, of those that the policy opens."""
    networks: tuple[str, ...] = ()
    """Networks that the key may be used from, else 403; empty: any."""
    tags: tuple[str, ...] = ()
    """Words for the record of each request."""
    canary: bool = False
    """Not available in this version."""
