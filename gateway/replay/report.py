"""The result of a replay as JSON (``to_dict``); ``table`` writes it as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from gateway.core.model import NANOS_PER_USD, Policy
from gateway.core.money import usd_text
from gateway.detect.model import format_time
from gateway.replay.reading import RecordReader
from gateway.replay.simulate import Simulation
from gateway.replay.totals import (
    Column,
    ComparedTotals,
    Key,
    PolicyTotals,
    ReplayTotals,
)

# Subjects in the JSON report, worst first.
MOST_SHOWN = 10_000
# Tenants named in one sentence.
_LISTED = 5


class ReplayReport(msgspec.Struct, frozen=True):
    """A finished replay. ``names``: files of the draft and of the current policy."""

    reader: RecordReader
    totals: ReplayTotals
    simulations: Mapping[Column, Simulation]
    names: Mapping[Column, str]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, documented in docs/replay.md."""
        totals, reader = self.totals, self.reader
        worst = totals.worst()
        return {
            "records": totals.total.requests,
            "lines": reader.lines,
            "span": {
                "from": format_time(totals.since),
                "to": format_time(totals.until),
            },
            "tokens": totals.tokens,
            "draft": self.names["draft"],
            "current": self.names.get("current"),
            "assumed": totals.assumed,
            "passed_over": totals.misfits,
            "totals": {name: self._total(name) for name in totals.columns},
            "tenants": [
                self._tenant(name, found)
                for name, found in sorted(
                    totals.tenants.items(),
                    key=lambda item: (tuple(-n for n in item[1].weight()), item[0]),
                )
            ],
            "subjects": [self._subject(*item) for item in worst[:MOST_SHOWN]],
            "subjects_left_out": max(0, len(worst) - MOST_SHOWN) + totals.left_out,
            "unmatched_tenants": {
                column: sorted(one.unmatched)
                for column, one in self.simulations.items()
            },
            "skipped": reader.skipped,
            "skipped_lines": [msgspec.structs.asdict(one) for one in reader.named],
            "notes": self.notes(),
        }

    def _total(self, column: Column) -> dict[str, Any]:
        found: dict[str, Any] = self.totals.total.of(column).public()
        found["subjects"] = self.totals.touched(column)
        simulation = self.simulations.get(column)
        if simulation is not None:
            found["incidents"] = dict(sorted(simulation.incidents.items()))
            found["unpriced"] = simulation.unpriced
        return found

    def _tenant(self, name: str, found: ComparedTotals) -> dict[str, Any]:
        """A tenant's row: requests, its policy in each configuration, and totals."""
        policies = {
            column: _shown_policy(one.policy_of(name))
            for column, one in self.simulations.items()
        }
        head = {"tenant": name, "requests": found.requests, "policies": policies}
        return head | found.public(self.totals.columns)

    def _subject(self, key: Key, found: ComparedTotals) -> dict[str, Any]:
        head = {
            "tenant": key[0],
            "subject": {"kind": key[1], "id": key[2]},
            "requests": self.totals.requests_of(key),
        }
        return head | found.public(self.totals.columns)

    # -- notes ----------------------------------------------------------------------

    def notes(self) -> list[str]:
        """Assumptions and gaps behind the figures, in sentences."""
        totals, reader = self.totals, self.reader
        notes = []
        if reader.skipped:
            notes.append(
                f"{reader.skipped} of {reader.lines} lines were malformed and skipped"
            )
        if totals.assumed:
            notes.append(
                f"{totals.assumed} requests were refused when recorded and have no usage:"
                " their usage is estimated from the same user's other requests"
            )
        if totals.misfits:
            notes.append(
                f"{totals.misfits} requests were answered by the gateway itself (unknown"
                " key or path, unreadable body): limits do not count them"
            )
        return notes + self._notes_on_tenants()

    def _notes_on_tenants(self) -> list[str]:
        notes = []
        for column, one in self.simulations.items():
            file = self.names[column]
            if one.unmatched:
                notes.append(
                    f"{file} has no tenant {_listed(one.unmatched)}:"
                    f" {sum(one.unmatched.values())} requests were decided by its policy"
                    " 'default'"
                )
            for policy, tenants in self._observers(one).items():
                notes.append(
                    f"policy {policy!r} of {file} is in observe mode: the figures"
                    f" show what enforcing it would do (tenant {_listed(tenants)})"
                )
            if one.unpriced:
                notes.append(
                    f"{file}: {one.unpriced} requests were for models without a price"
                    " and count as free"
                )
        return notes

    def _observers(self, simulation: Simulation) -> dict[str, list[str]]:
        """Tenants by their policy, for policies in observe mode."""
        found: dict[str, list[str]] = {}
        for tenant in self.totals.tenants:
            policy = simulation.policy_of(tenant)
            if policy.mode == "observe":
                found.setdefault(policy.name, []).append(tenant)
        return found


def _listed(names: Iterable[str]) -> str:
    """The first names and the number of further ones."""
    ordered = sorted(names)
    shown = ", ".join(map(repr, ordered[:_LISTED]))
    more = len(ordered) - _LISTED
    return f"{shown} and {more} more" if more > 0 else shown


def _shown_policy(policy: Policy) -> dict[str, str]:
    return {"name": policy.name, "mode": policy.mode}


def usd(sums: PolicyTotals) -> str:
    """Dollars saved, as text."""
    return usd_text(sums.nanos_saved / NANOS_PER_USD)
