"""What an incident changed: requests and money before and since, who makes up the
excess, and what it would have cost unhindered. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_SUMS = ("requests", "refused", "tokens", "usd")
# A share is of the highest minute that is known; less than this is noise.
LEAST_EXCESS = 0.5


def impact(
    line: Mapping[str, Any] | None, since: float, now: float
) -> dict[str, Any] | None:
    """The subject's last hour, parted where it began (``since``, epoch seconds); what
    was refused is priced at the average of what passed since then.
    """
    if line is None or not line["items"]:
        return None
    step = line["step_s"]
    # The bucket in which it began belongs to it.
    turn = max(since // step * step, line["from"])
    before = _part(
        (one for one in line["items"] if one["at"] < turn), turn, line["from"]
    )
    end = max(min(now, line["to"]), turn)
    after = _part((one for one in line["items"] if one["at"] >= turn), end, turn)
    passed = after["requests"] - after["refused"]
    model = after if passed else before
    passed = passed or before["requests"] - before["refused"]
    saved = None
    if passed:
        share = after["refused"] / passed
        saved = {"tokens": model["tokens"] * share, "usd": model["usd"] * share}
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
    """Sets ``share``: each client's part of what came beyond the usual, among those of
    its kind (a request counts for its address and for its user). None: nothing did.
    """
    excess = [_excess(one) for one in clients]
    totals: dict[str, float] = {}
    for one, much in zip(clients, excess, strict=True):
        totals[one["kind"]] = totals.get(one["kind"], 0.0) + much
    for one, much in zip(clients, excess, strict=True):
        total = totals[one["kind"]]
        one["share"] = much / total if total >= LEAST_EXCESS else None


def _excess(client: Mapping[str, Any]) -> float:
    """Requests of the last hour beyond what is usual in one. Whoever is new has no
    usual: all of it is beyond.
    """
    usual_h = 60.0 * (client["expected_1m"] or 0.0)
    # A young gateway has seen less than an hour: never less than the last minute's.
    minute = (client["requests_1m"] or 0.0) - (client["expected_1m"] or 0.0)
    return float(max(0.0, client["requests_1h"] - usual_h, minute))
