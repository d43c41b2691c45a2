"""What a replay found: for programs (``to_dict``) and for people (``write_tables``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from gateway.core.model import NANOS_PER_USD, Policy
from gateway.detect.model import format_time
from gateway.replay.reading import Reader
from gateway.replay.simulate import Simulation
from gateway.replay.tally import Column, Columns, Key, Sums, Tally

# Subjects in the JSON report, worst first.
MOST_SHOWN = 10_000
# Tenants named in one sentence.
_LISTED = 5


class Report(msgspec.Struct, frozen=True):
    """A finished replay. ``names``: the files of the draft and the current policy."""

    reader: Reader
    tally: Tally
    simulations: Mapping[Column, Simulation]
    names: Mapping[Column, str]

    def to_dict(self) -> dict[str, Any]:
        """The stable JSON form (documented in docs/replay.md)."""
        tally, reader = self.tally, self.reader
        worst = tally.worst()
        return {
            "records": tally.total.requests,
            "lines": reader.lines,
            "span": {"from": format_time(tally.since), "to": format_time(tally.until)},
            "tokens": tally.tokens,
            "draft": self.names["draft"],
            "current": self.names.get("current"),
            "assumed": tally.assumed,
            "passed_over": tally.misfits,
            "totals": {name: self._total(name) for name in tally.columns},
            "tenants": [
                self._tenant(name, found)
                for name, found in sorted(
                    tally.tenants.items(),
                    key=lambda item: (tuple(-n for n in item[1].weight()), item[0]),
                )
            ],
            "subjects": [self._subject(*item) for item in worst[:MOST_SHOWN]],
            "subjects_left_out": max(0, len(worst) - MOST_SHOWN) + tally.left_out,
            "unmatched_tenants": {
                column: sorted(one.unmatched)
                for column, one in self.simulations.items()
            },
            "skipped": reader.skipped,
            "skipped_lines": [msgspec.structs.asdict(one) for one in reader.named],
            "notes": self.notes(),
        }

    def _total(self, column: Column) -> dict[str, Any]:
        found: dict[str, Any] = self.tally.total.of(column).public()
        found["subjects"] = self.tally.touched(column)
        simulation = self.simulations.get(column)
        if simulation is not None:
            found["incidents"] = dict(sorted(simulation.incidents.items()))
            found["unpriced"] = simulation.unpriced
        return found

    def _tenant(self, name: str, found: Columns) -> dict[str, Any]:
        policies = {
            column: _shown_policy(one.policy_of(name))
            for column, one in self.simulations.items()
        }
        head = {"tenant": name, "requests": found.requests, "policies": policies}
        return head | found.public(self.tally.columns)

    def _subject(self, key: Key, found: Columns) -> dict[str, Any]:
        head = {
            "tenant": key[0],
            "subject": {"kind": key[1], "id": key[2]},
            "requests": self.tally.requests_of(key),
        }
        return head | found.public(self.tally.columns)

    # -- what a reader must know -----------------------------------------------------

    def notes(self) -> list[str]:
        """What the figures leave open, in sentences."""
        tally, reader = self.tally, self.reader
        said = []
        if reader.skipped:
            said.append(
                f"{reader.skipped} of {reader.lines} lines were malformed and skipped"
            )
        if tally.assumed:
            said.append(
                f"{tally.assumed} requests were refused then and have no usage: they"
                " are taken to be like what the same user's other requests usually cost"
            )
        if tally.misfits:
            said.append(
                f"{tally.misfits} requests were answered by the gateway itself (unknown"
                " key or path, unreadable body): no limit counts them"
            )
        return said + self._notes_on_tenants()

    def _notes_on_tenants(self) -> list[str]:
        said = []
        for column, one in self.simulations.items():
            file = self.names[column]
            if one.unmatched:
                said.append(
                    f"{file} has no tenant {_listed(one.unmatched)}:"
                    f" {sum(one.unmatched.values())} requests went through its policy"
                    " 'default'"
                )
            for policy, tenants in self._observers(one).items():
                said.append(
                    f"policy {policy!r} of {file} is in observe mode: shown is what"
                    f" enforcing it would do (tenant {_listed(tenants)})"
                )
            if one.unpriced:
                said.append(
                    f"{file}: {one.unpriced} requests were for models without a price"
                    " and count as free"
                )
        return said

    def _observers(self, simulation: Simulation) -> dict[str, list[str]]:
        """Tenants by the policy in observe mode that they are under."""
        found: dict[str, list[str]] = {}
        for tenant in self.tally.tenants:
            policy = simulation.policy_of(tenant)
            if policy.mode == "observe":
                found.setdefault(policy.name, []).append(tenant)
        return found


def _listed(names: Iterable[str]) -> str:
    """The first names, and how many more."""
    ordered = sorted(names)
    shown = ", ".join(map(repr, ordered[:_LISTED]))
    more = len(ordered) - _LISTED
    return f"{shown} and {more} more" if more > 0 else shown


def _shown_policy(policy: Policy) -> dict[str, str]:
    return {"name": policy.name, "mode": policy.mode}


def usd(sums: Sums) -> str:
    """Dollars saved, for people."""
    return f"${sums.nanos_saved / NANOS_PER_USD:,.2f}"
