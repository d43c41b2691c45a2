"""Impact of an incident: rates before and since, savings, and shares of the excess.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_SUMS = ("requests", "refused", "tokens", "usd")
# Requests. With less excess than this in total, shares are noise and left out.
MIN_EXCESS = 0.5


def impact(
    line: Mapping[str, Any] | None, since: float, now: float
) -> dict[str, Any] | None:
    """Sums of the subject's last hour before and since ``since`` (epoch seconds), from
    its timeline ``line``; None without one.

    ``saved`` estimates the refused requests at the average tokens and price of the
    requests served since then (before, if none was served).
    """
    if line is None or not line["items"]:
        return None
    step = line["step_s"]
    # The bucket in which it began counts as since.
    turn = max(since // step * step, line["from"])
    before = _part(
        (one for one in line["items"] if one["at"] < turn), turn, line["from"]
    )
    end = max(min(now, line["to"]), turn)
    after = _part((one for one in line["items"] if one["at"] >= turn), end, turn)
    passed = after["requests"] - after["refused"]
    basis = after if passed else before
    passed = passed or before["requests"] - before["refused"]
    saved = None
    if passed:
        share = after["refused"] / passed
        saved = {"tokens": basis["tokens"] * share, "usd": basis["usd"] * share}
    return {"before": before, "after": after, "saved": saved}


def _part(
    items: Iterable[Mapping[str, Any]], end: float, begin: float
) -> dict[str, Any]:
    sums = dict.fromkeys(_SUMS, 0) | {"from": begin, "to": end}
    for one in items:
        for name in _SUMS:
            sums[name] += one[name]
    return sums


def add_shares(clients: Sequence[dict[str, Any]]) -> None:
    """Set ``share``: the client's part of the requests above the expected rate, among
    clients of its kind (a request counts for its address and for its user). None if
    their total excess is below MIN_EXCESS.
    """
    excess = [_excess(one) for one in clients]
    totals: dict[str, float] = {}
    for one, surplus in zip(clients, excess, strict=True):
        totals[one["kind"]] = totals.get(one["kind"], 0.0) + surplus
    for one, surplus in zip(clients, excess, strict=True):
        total = totals[one["kind"]]
        one["share"] = surplus / total if total >= MIN_EXCESS else None


def _excess(client: Mapping[str, Any]) -> float:
    """Requests of the last hour above the expected number; all of them for a client
    without an expected rate.
    """
    expected_h = 60.0 * (client["expected_1m"] or 0.0)
    # After a start less than an hour is known: use at least the last minute's excess.
    minute = (client["requests_1m"] or 0.0) - (client["expected_1m"] or 0.0)
    return float(max(0.0, client["requests_1h"] - expected_h, minute))
