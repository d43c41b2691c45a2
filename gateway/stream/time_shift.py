"""Time-shifted replay of events that are older than the baselines.

A week can be learned first and then watched, to find its anomalies. A detector's
clock only goes forward, so such events are shifted by whole weeks (the same hour of the
same weekday; by days if the baselines cover less than a week), and outputs are shifted
back.
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


def known_span(detectors: Detectors) -> tuple[float, float]:
    """Times of the first and the last request in the baselines, epoch seconds."""
    tenants = [one for engine in detectors.engines for one in engine.tenants.values()]
    newest = (
        state.last
        for tenant in tenants
        for states in tenant.subjects.values()
        for state in states.values()
    )
    return min((one.born for one in tenants), default=0.0), max(newest, default=0.0)


class TimeShiftedReplay:
    """Detectors that get every event ``shift_s`` (seconds) later than its own time, and
    whose outputs are shifted back.
    """

    def __init__(self, detectors: Detectors, shift_s: float) -> None:
        self._detectors, self.shift_s = detectors, shift_s
        detectors.configure(_shifted(detectors.settings, shift_s))

    @classmethod
    def shift_if_needed(
        cls, detectors: Detectors, ts: float
    ) -> Detectors | TimeShiftedReplay:
        """``detectors`` unchanged if their baselines end before ``ts`` (time of the first
        event), else shifted past them.
        """
        since, until = known_span(detectors)
        if until < ts:
            return detectors
        unit_s = WEEK_S if until - since > WEEK_S - DAY_S else DAY_S
        return cls(detectors, ((until - ts) // unit_s + 1) * unit_s)

    def engine_of(self, tenant: str) -> Engine | None:
        """As ``Detectors.engine_of``; times inside the engine are shifted."""
        return self._detectors.engine_of(tenant)

    @property
    def misplaced(self) -> int:
        """As ``Detectors.misplaced``."""
        return self._detectors.misplaced

    def observe(self, event: Event) -> list[Output]:
        """As ``Detectors.observe``."""
        return self._unshift(self._detectors.observe(self._shift(event)))

    def observe_outcome(self, event: Event) -> list[Output]:
        """As ``Detectors.observe_outcome``."""
        return self._unshift(self._detectors.observe_outcome(self._shift(event)))

    def advance(self, now: float) -> list[Output]:
        """As ``Detectors.advance``."""
        return self._unshift(self._detectors.advance(now + self.shift_s))

    def close(self) -> list[Output]:
        """As ``Detectors.close``."""
        return self._unshift(self._detectors.close())

    def _shift(self, event: Event) -> Event:
        return msgspec.structs.replace(event, ts=event.ts + self.shift_s)

    def _unshift(self, outputs: list[Output]) -> list[Output]:
        return [_unshifted(output, self.shift_s) for output in outputs]


def _unshifted(output: Output, shift_s: float) -> Output:
    def shifted(text: str) -> str:
        return format_time(datetime.fromisoformat(text).timestamp() - shift_s)

    return msgspec.structs.replace(
        output,
        ts=shifted(output.ts),
        until=None if output.until is None else shifted(output.until),
        window=EvidenceWindow(shifted(output.window.since), shifted(output.window.to)),
    )


def _shifted(settings: DetectionSettings, shift_s: float) -> DetectionSettings:
    """The same settings with shifted campaigns."""

    def with_shift(one: DetectSettings | None) -> DetectSettings | None:
        if one is None or not one.campaigns:
            return one
        campaigns = tuple(
            msgspec.structs.replace(
                campaign, since=campaign.since + shift_s, to=campaign.to + shift_s
            )
            for campaign in one.campaigns
        )
        return msgspec.structs.replace(one, campaigns=campaigns)

    tenants = {name: with_shift(one) for name, one in settings.tenants.items()}
    return DetectionSettings(with_shift(settings.default), tenants)
