"""Which endpoints and models a policy opens to its clients."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from gateway.core.refusal import Refusal
from gateway.metering.dialects.works import shaped_answer
from gateway.metering.models import matches_model, matching_names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.core.model import ModelList, Policy
    from gateway.http.head import RequestHead
    from gateway.metering.dialects import Match
    from gateway.metering.prices import PriceTable

# ``endpoints`` of a policy where the gateway sends the provider's key for its tenants.
METERED = "metered"
DEFAULT_ENDPOINTS = (METERED, "models")
# Work whose requests are in a file, or that has no tokens: read for its model, but no
# answer states what it costs, so it is not part of ``metered``.
JOBS = frozenset({"batches", "videos", "fine_tuning.jobs", "predict_long_running"})
# Lines of header fields by which some servers let a request be of another method;
# CGI-like ones read `_` as `-`.
_OVERRIDES = re.compile(
    rb"^x[-_](?:http[-_])?method(?:[-_]override)?[ \t]*:.*\n",
    re.IGNORECASE | re.MULTILINE,
)
# Lines of header fields that ask for a part of the answer, which may lack the usage.
_PARTS = re.compile(
    rb"^(?:(?:if[-_])?range|if[-_](?:none[-_])?match|if[-_](?:un)?modified[-_]since"
    rb"|x[-_]goog[-_]fieldmask)[ \t]*:.*\n",
    re.IGNORECASE | re.MULTILINE,
)

_CLOSED = Refusal(
    403,
    "endpoint_not_allowed",
    "This endpoint is not open to clients of this gateway (`endpoints` of the policy).",
    by_policy=True,
)


def check_endpoint(
    policy: Policy,
    head: RequestHead,
    match: Match,
    *,
    session: bool,
    shared_account: bool,
) -> Refusal | None:
    """Refuse an endpoint that the policy does not open. ``session``: the request asks
    for a WebSocket, and may get it.

    ``shared_account``: the gateway's own key gives access to an account that several
    tenants share. Without a list of its own a policy then opens what is metered, and
    the list of models: not files, stored answers, batches or keys.
    """
    entries, own = policy.endpoints, policy.key_endpoints
    if entries is None and (shared_account or own is not None):
        entries = own if own is not None else DEFAULT_ENDPOINTS
    for listed in (entries, own):
        if listed is not None and not any(
            _opens(entry, head, match, session=session) for entry in listed
        ):
            return _CLOSED
    return None


def _opens(entry: str, head: RequestHead, match: Match, *, session: bool) -> bool:
    if entry == "*":
        return True
    method, _, path = entry.rpartition(" ")
    if path.startswith("/"):
        return method in ("", head.method) and fnmatchcase(head.path, path)
    endpoint = match.endpoint
    if endpoint == "models" and head.method not in ("GET", "HEAD"):
        return False  # deletes a model
    if endpoint == "realtime" and not session:
        return False  # opens a session that does not pass the gateway
    if entry != METERED:
        return fnmatchcase(endpoint, entry)
    counted = match.metered and endpoint not in JOBS
    counted = counted or endpoint == "count_tokens"
    # Work that is paid later is fetched or cancelled by its id, which cannot be guessed.
    polls = bool(match.polled) and match.work != "batch"
    return counted or (session and endpoint != "other") or polls


def without_overrides(lines: bytes) -> bytes:
    """Header lines without the fields that override the method, so that the upstream
    reads the method that is metered.
    """
    return _OVERRIDES.sub(b"", lines)


def without_parts(lines: bytes) -> bytes:
    """Header lines without the fields that ask for a part of the answer."""
    return _PARTS.sub(b"", lines)


def check_shape(match: Match, query: str) -> Refusal | None:
    """Refuse a query that has the answer come without its usage. Only Google's APIs know
    such parameters, but they serve the paths of others as well.
    """
    name = shaped_answer(query) if query and match.metered else ""
    if not name:
        return None
    return Refusal(
        400,
        "invalid_request",
        f"Answers must be whole, in JSON or events: '{name}' cannot be used here.",
        name,
        by_policy=True,
    )


def check_model(
    listed: Iterable[ModelList], model: str, prices: PriceTable | None
) -> Refusal | None:
    """Refuse a model that one of the lists denies or does not name."""
    for models in listed:
        if not _holds(models, model, prices):
            return Refusal(
                403,
                "model_not_allowed",
                f"The model {model[:100]!r} is not open to clients of this gateway.",
                "model",
                by_policy=True,
            )
    return None


def _holds(models: ModelList, model: str, prices: PriceTable | None) -> bool:
    names = matching_names(model)
    if prices is not None and prices.knows(model):
        names = (*names, prices.known_name(model))
    return _is_open(models, names)


def _is_open(models: ModelList, names: tuple[str, ...]) -> bool:
    if matches_model(models.deny, names):
        return False
    if models.within is not None and not _is_open(models.within, names):
        return False
    return not models.allow or matches_model(models.allow, names)
