"""Figures of the detector: expected rates of busy subjects for workers, the expected
rate of a tenant and the activity of one subject for operators.
"""

from __future__ import annotations

import msgspec

from gateway.detect.baseline import LEVEL_STEPS, UpperBaseline
from gateway.detect.engine import Engine
from gateway.detect.subject import MINUTE_S, WINDOW_S, SubjectState
from gateway.detect.tenant import BASELINE_KNOWN

# Beyond these the busiest of the tenant stand for a subject.
MOST_EXPECTED = 4096
_MINUTES = WINDOW_S // MINUTE_S
# A minute may hold so many times a window's average.
_BURST = 3.0
Key = tuple[str, str, str]  # tenant, kind, id


def expectations(
    engine: Engine, most: int = MOST_EXPECTED
) -> tuple[dict[Key, float], dict[str, float]]:
    """Requests a minute: of subjects that are active and usually busier than others of
    their tenant (the busiest ``most``), and of the busiest of each tenant.
    """
    window = int(engine.clock.now // WINDOW_S)
    busy: dict[str, float] = {}
    found: list[tuple[float, Key]] = []
    for name, tenant in engine.tenants.items():
        busy[name] = usual = tenant.peers.busy()
        for tracks in tenant.subjects.values():
            for track in tracks.values():
                if track.window >= window - 1:
                    expected = _expected_m(track, window)
                    if expected > usual:
                        found.append((expected, (name, track.kind, track.id)))
    found.sort(key=lambda entry: (-entry[0], entry[1]))
    return {key: expected for expected, key in found[:most]}, busy


def _expected_m(track: SubjectState, window: int) -> float:
    envelope = track.baseline
    if envelope is None or not envelope.age:
        return 0.0
    level = envelope.expect(max(window, envelope.last + 1)).level
    return _BURST * envelope.count(level) / _MINUTES


class ExpectedRate(msgspec.Struct, frozen=True, gc=False):
    """Requests per second of one tenant: the upper baseline, and the rate from which a
    window is flagged.
    """

    expected: float
    notable: float


def expected_rate_of(engine: Engine, name: str) -> ExpectedRate | None:
    """None while a tenant's tide is not known (six hours)."""
    tenant = engine.tenants.get(name)
    if tenant is None or tenant.seasonal_baseline.age < BASELINE_KNOWN:
        return None
    tide = tenant.seasonal_baseline
    now = tide.expect(max(tenant.window, tide.last + 1))
    notable = now.level + engine.settings.warning * now.spread
    return ExpectedRate(
        tide.count(now.level) / WINDOW_S, tide.count(notable) / WINDOW_S
    )


class SubjectActivity(msgspec.Struct, frozen=True):
    """One subject now, beside what it usually does. ``expected_*`` None: not known yet.

    ``*_1m`` are of the last sixty seconds, ``*_10m`` of a ten-minute window; the
    histories hold a day of finished windows, oldest first, ``until`` (epoch seconds)
    being the end of the last. ``sigma`` is how far the running window is above.
    """

    since: float
    known: bool
    requests_1m: float
    requests_10m: int
    tokens_10m: int
    expected_1m: float | None
    expected_10m: float | None
    expected_tokens_10m: float | None
    score: float | None = msgspec.field(name="sigma")
    alike: float
    peers_1m: float
    until: float
    requests: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()


_DAY = 144  # windows


def subject_activity(
    engine: Engine, name: str, kind: str, id_: str, now: float, *, history: bool = False
) -> SubjectActivity | None:
    """What is remembered of a subject; None for a stranger."""
    tenant = engine.tenants.get(name)
    track = None
    if tenant is not None and kind in tenant.subjects:
        track = tenant.subjects[kind].get(id_)
    if tenant is None or track is None:
        return None
    current = int(now // WINDOW_S) == track.window
    window = max(track.window, int(now // WINDOW_S))
    requests = track.requests if current else 0
    requests_10m = _level(track.baseline, window)
    envelope = track.baseline
    return SubjectActivity(
        since=track.born,
        known=track.known(now),
        requests_1m=track.rate_m(now),
        requests_10m=requests,
        tokens_10m=track.tokens if current else 0,
        expected_1m=None if requests_10m is None else requests_10m / _MINUTES,
        expected_10m=requests_10m,
        expected_tokens_10m=_level(track.token_baseline, window),
        score=_score(envelope, window, requests),
        alike=track.alike,
        peers_1m=tenant.peers.busy(),
        until=((envelope.last + 1) if envelope else window) * WINDOW_S,
        requests=_day(envelope) if history else (),
        tokens=_day(track.token_baseline) if history else (),
    )


def _level(envelope: UpperBaseline | None, window: int) -> float | None:
    if envelope is None or not envelope.age:
        return None
    ahead = max(window, envelope.last + 1)
    # A peek: time passes for a subject when it is heard of again, not when looked at.
    if ahead > envelope.last + 1:
        hours = (ahead - envelope.last - 1) * envelope.window_s / 3600.0
        return envelope.count(max(0.0, envelope.peak - hours))
    return envelope.count(envelope.expect(ahead).level)


def _score(envelope: UpperBaseline | None, window: int, count: float) -> float | None:
    level = _level(envelope, window)
    if envelope is None or level is None:
        return None
    return (envelope.value(count) - envelope.value(level)) / envelope.spread


def _day(envelope: UpperBaseline | None) -> tuple[int, ...]:
    if envelope is None or not envelope.age:
        return ()
    size = len(envelope.levels)
    first = max(envelope.first, envelope.last + 1 - _DAY)
    return tuple(
        round(envelope.count(envelope.levels[at % size] / LEVEL_STEPS))
        for at in range(first, envelope.last + 1)
    )
