"""Events of a time that the baselines already know: seen as a later week's.

Who learns a week and then watches that same week asks what stood out in it. A detector
only goes forward, so such events are moved by whole weeks (the same hour of the same
weekday; by days where less than a week is known), and what is found is moved back.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from gateway.detect.detectors import DetectionSettings, Detectors
from gateway.detect.engine import Engine
from gateway.detect.model import (
    DetectSettings,
    Event,
    EvidenceWindow,
    Output,
    format_time,
)

DAY_S, WEEK_S = 86_400.0, 604_800.0


def known_span(rooms: Detectors) -> tuple[float, float]:
    """The oldest and the newest request that the baselines know of, epoch seconds."""
    tenants = [one for engine in rooms.engines for one in engine.tenants.values()]
    newest = (
        track.last
        for tenant in tenants
        for tracks in tenant.subjects.values()
        for track in tracks.values()
    )
    return min((one.born for one in tenants), default=0.0), max(newest, default=0.0)


class Later:
    """Rooms for events that are ``shift_s`` older than they shall be seen."""

    def __init__(self, rooms: Detectors, shift_s: float) -> None:
        self._rooms, self.shift_s = rooms, shift_s
        rooms.configure(_moved(rooms.settings, shift_s))

    @classmethod
    def for_first(cls, rooms: Detectors, ts: float) -> Detectors | Later:
        """The rooms themselves where their knowledge ends before ``ts``."""
        since, until = known_span(rooms)
        if until < ts:
            return rooms
        unit_s = WEEK_S if until - since > WEEK_S - DAY_S else DAY_S
        return cls(rooms, ((until - ts) // unit_s + 1) * unit_s)

    def engine_of(self, tenant: str) -> Engine | None:
        """As ``Detectors.of``; its own times are the moved ones."""
        return self._rooms.engine_of(tenant)

    @property
    def misplaced(self) -> int:
        """As ``Detectors.misplaced``."""
        return self._rooms.misplaced

    def observe(self, event: Event) -> list[Output]:
        """As ``Detectors.observe``."""
        return self._back(self._rooms.observe(self._forward(event)))

    def observe_outcome(self, event: Event) -> list[Output]:
        """As ``Detectors.settle``."""
        return self._back(self._rooms.observe_outcome(self._forward(event)))

    def advance(self, now: float) -> list[Output]:
        """As ``Detectors.advance``."""
        return self._back(self._rooms.advance(now + self.shift_s))

    def close(self) -> list[Output]:
        """As ``Detectors.close``."""
        return self._back(self._rooms.close())

    def _forward(self, event: Event) -> Event:
        return msgspec.structs.replace(event, ts=event.ts + self.shift_s)

    def _back(self, outputs: list[Output]) -> list[Output]:
        return [_earlier(output, self.shift_s) for output in outputs]


def _earlier(output: Output, shift_s: float) -> Output:
    def moved(text: str) -> str:
        return format_time(datetime.fromisoformat(text).timestamp() - shift_s)

    return msgspec.structs.replace(
        output,
        ts=moved(output.ts),
        until=None if output.until is None else moved(output.until),
        window=EvidenceWindow(moved(output.window.since), moved(output.window.to)),
    )


def _moved(settings: DetectionSettings, shift_s: float) -> DetectionSettings:
    """The same settings with their campaigns at the moved time."""

    def one(held: DetectSettings | None) -> DetectSettings | None:
        if held is None or not held.campaigns:
            return held
        campaigns = tuple(
            msgspec.structs.replace(
                launch, since=launch.since + shift_s, to=launch.to + shift_s
            )
            for launch in held.campaigns
        )
        return msgspec.structs.replace(held, campaigns=campaigns)

    tenants = {name: one(held) for name, held in settings.tenants.items()}
    return DetectionSettings(one(settings.default), tenants)
