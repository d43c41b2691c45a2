"""One detector for each distinct setting; most often that is one.

Tenants under different policies may have different score thresholds and ladders, or no
detection. Events go to the detector of their tenant; baselines hold every tenant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from gateway.core.model import Campaign, Policy
from gateway.detect.engine import Engine
from gateway.detect.model import DetectSettings, Event, Output
from gateway.detect.packed_baselines import BaselinesError

_ANYBODY = ""  # one entry for all tenants that nobody declared
# What is kept of tenants whose detection is off, until it is on again: the ones seen
# last, and of each the subjects seen last.
_PARKED = DetectSettings(max_tenants=64, max_subjects=2_000, max_baselines=2_000)


class DetectionSettings(msgspec.Struct, frozen=True):
    """Detection settings by tenant; None: detection is off."""

    default: DetectSettings | None = DetectSettings()
    tenants: Mapping[str, DetectSettings | None] = {}

    def of(self, tenant: str) -> DetectSettings | None:
        """What holds for a tenant; one that nobody declared has the default."""
        return self.tenants.get(tenant, self.default)


def settings_of(
    policies: Mapping[str, Policy],
    default: Policy,
    campaigns: Iterable[Campaign] = (),
    reorder_s: float = 0.0,
) -> DetectionSettings:
    """Detection as the policies of tenants state it, as if all of them enforced: what
    observe mode leaves undone, it leaves undone where requests are decided.
    """
    declared = tuple(campaigns)
    return DetectionSettings(
        default=_settings(default, declared, reorder_s),
        tenants={
            tenant: _settings(policy, declared, reorder_s)
            for tenant, policy in policies.items()
        },
    )


def _settings(
    policy: Policy, campaigns: tuple[Campaign, ...], reorder_s: float
) -> DetectSettings | None:
    anomaly = policy.anomaly
    if not anomaly.enabled:
        return None
    return DetectSettings(
        warning=anomaly.warning,
        critical=anomaly.critical,
        ladder=anomaly.ladder,
        class_ladders=anomaly.classes,
        campaigns=campaigns,
        max_blocked_share=anomaly.max_blocked_share,
        grace_s=anomaly.grace_s,
        allow=frozenset(policy.allow),
        reorder_s=reorder_s,
    )


class Detectors:
    """All detectors, by settings. ``baselines``: what ``state`` returned, or the state of
    one engine.
    """

    def __init__(
        self, settings: DetectionSettings, baselines: bytes | None = None
    ) -> None:
        """Raises BaselinesError."""
        self._settings = settings
        self._engines: list[Engine] = []
        self._by_tenant: dict[str, Engine | None] = {}
        self._parked: bytes | None = None
        self._build(settings, [] if baselines is None else _states(baselines))

    def _build(self, settings: DetectionSettings, states: list[bytes]) -> None:
        self._settings = settings
        self._engines = []
        self._by_tenant = {}
        for wanted in (settings.default, *settings.tenants.values()):
            if wanted is not None and self._find(wanted) is None:
                self._engines.append(Engine(wanted))
        aside = Engine(_PARKED)
        for state in states:
            for engine in self._engines:
                self._load(engine, state, engine)
            self._load(aside, state, None)
        self._parked = aside.state() if aside.tenants else None

    def _load(self, engine: Engine, state: bytes, of: Engine | None) -> None:
        try:
            engine.load(state, keep=lambda tenant: self.engine_of(tenant) is of)
        except (msgspec.DecodeError, ValueError, LookupError) as error:
            raise BaselinesError(f"these are no baselines: {error}") from None

    def observe(self, event: Event) -> list[Output]:
        """One event; nothing where its tenant's policy has detection off."""
        engine = self.engine_of(event.tenant)
        return engine.observe(event) if engine else []

    def observe_outcome(self, event: Event) -> list[Output]:
        """The end of a request whose beginning was observed (``Engine.settle``)."""
        engine = self.engine_of(event.tenant)
        return engine.observe_outcome(event) if engine else []

    def advance(self, now: float) -> list[Output]:
        """Event time has come to ``now`` (epoch seconds)."""
        return [out for engine in self._engines for out in engine.advance(now)]

    def close(self) -> list[Output]:
        """The end of all events."""
        return [out for engine in self._engines for out in engine.close()]

    def state(self) -> bytes:
        """Everything that must survive a restart."""
        states = self._states()
        return states[0] if len(states) == 1 else msgspec.msgpack.encode(states)

    def configure(self, settings: DetectionSettings) -> bool:
        """New settings, old knowledge; False when nothing is different."""
        if settings == self._settings:
            return False
        self._build(settings, self._states())
        return True

    def _states(self) -> list[bytes]:
        """Of each detector, and before them what was set aside: the last one's tails
        and reach count.
        """
        aside = [] if self._parked is None else [self._parked]
        return aside + [engine.state() for engine in self._engines]

    @property
    def settings(self) -> DetectionSettings:
        """What is in force."""
        return self._settings

    @property
    def engines(self) -> tuple[Engine, ...]:
        """All of them, for figures and exports."""
        return tuple(self._engines)

    @property
    def misplaced(self) -> int:
        """Events not counted: too late, or alone in the future."""
        return sum(engine.late + engine.clock.absurd for engine in self._engines)

    def engine_of(self, tenant: str) -> Engine | None:
        """The detector of a tenant's events."""
        if tenant not in self._settings.tenants:
            tenant = _ANYBODY
        if tenant not in self._by_tenant:
            self._by_tenant[tenant] = self._find(self._settings.of(tenant))
        return self._by_tenant[tenant]

    def _find(self, settings: DetectSettings | None) -> Engine | None:
        return next((one for one in self._engines if one.settings == settings), None)


def _states(baselines: bytes) -> list[bytes]:
    """The state of each detector that was saved; one alone is saved bare."""
    try:
        return msgspec.msgpack.decode(baselines, type=list[bytes])
    except msgspec.ValidationError:
        return [baselines]
    except msgspec.DecodeError as error:
        raise BaselinesError(f"these are no baselines: {error}") from None
