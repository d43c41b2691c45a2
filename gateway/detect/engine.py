"""The detector: events in, verdicts and incidents out. Event time only, no chance.

One event costs a few additions in its tenant, its address, its user and its prompt
template. A subject is looked at closely every few events, more often the fewer it has
sent; what a look finds becomes an incident only with evidence that lasts.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import log

import msgspec

from gateway.detect.act import Bench, Case
from gateway.detect.baseline import Envelope, new_envelope
from gateway.detect.classify import Facts, Finding, classify
from gateway.detect.crowd import judge_template, judge_tenant
from gateway.detect.features import (
    DENIED,
    FAILED,
    MISSING,
    OK,
    REJECTED,
    WINDOW_S,
    Track,
    conduct_of,
    network_of,
)
from gateway.detect.model import DetectSettings, Event, Output, Ref, Rung
from gateway.detect.order import EventClock, ReorderBuffer
from gateway.detect.population import (
    REQUESTS_UNIT,
    TOKENS_UNIT,
    Remembered,
    Tenant,
)
from gateway.detect.score import Tail, new_tail
from gateway.detect.templates import Template

ANONYMOUS = "anonymous"
# Windows a subject must have been seen in before it gets a week of its own.
_ENVELOPE_AFTER = 2
_REFIT_S = 3600.0
_SWEEP_S = 10.0
# A source is a newcomer for so long after its first request.
NEWCOMER_S = 1800.0
# How peers spread around their busiest: a factor of e per so many sigma.
_PEER_SIGMAS = 2.2
# Prompts in a window that make a template.
_DENSE = 6
# Scores below this are not looked into further.
_NOTABLE = 2.0
# Templates of a tenant that a state keeps.
_SAVED_TEMPLATES = 512


class Engine:
    """The detector of one room: feed ``observe`` in the order of time."""

    def __init__(
        self, settings: DetectSettings | None = None, baselines: bytes | None = None
    ) -> None:
        self.settings = settings or DetectSettings()
        self.clock = EventClock()
        self.tenants: dict[str, Tenant] = {}
        self.tails: dict[str, Tail] = {"requests": new_tail(), "tokens": new_tail()}
        self.bench = Bench(self.settings)
        self.events = 0
        self._buffer = ReorderBuffer(self.settings.reorder_s)
        self._envelopes: Remembered = Remembered(self.settings.max_baselines)
        self._refit_at = 0.0
        self._sweep_at = 0.0
        self._started = 0.0
        if baselines is not None:
            self.load(baselines)

    # -- what callers use --------------------------------------------------------------

    def observe(self, event: Event) -> list[Output]:
        """Take one event in; the verdicts and incidents that it brings about."""
        if not self.clock.admit(event.ts):
            return []
        if self._buffer.hold_s <= 0.0:
            return self._handle(event)
        self._buffer.push(event)
        return self._release(self.clock.now - self._buffer.hold_s)

    def advance(self, now: float) -> list[Output]:
        """Event time has come to ``now`` without an event."""
        self.clock.now = max(self.clock.now, now)
        out = self._release(now - self._buffer.hold_s)
        if now >= self._sweep_at:
            out += self._sweep(now)
        return out

    def close(self) -> list[Output]:
        """No more events: hand out what was held, end what is open."""
        out = self._release(float("inf"))
        return out + self.bench.close(self.clock.now)

    def action_for(self, kind: str, id_: str, tenant: str | None = None) -> Rung:
        """What is done to a subject now; ``tenant`` None: the strictest anywhere."""
        return self.bench.action_for(kind, id_, tenant, self.clock.now)

    @property
    def late(self) -> int:
        """Events that came too late to be counted."""
        return self.clock.late

    # -- one event ---------------------------------------------------------------------

    def _release(self, until: float) -> list[Output]:
        out: list[Output] = []
        for event in self._buffer.pop_until(until):
            out += self._handle(event)
        return out

    def _handle(self, event: Event) -> list[Output]:
        ts = event.ts
        self.events += 1
        out: list[Output] = []
        if ts >= self._sweep_at:
            out += self._sweep(ts)
        tenant = self.tenants.get(event.tenant)
        if tenant is None:
            tenant = self._tenant(event.tenant)
        kind = conduct_of(event.status)
        window = int(ts // WINDOW_S)
        if window > tenant.window:
            self._turn_tenant(tenant, window)
        tenant.count(event, kind)
        ip = self._track(tenant, "client_ip", event.client_ip, ts)
        if ip.count(event, kind, event.user):
            self._turn(tenant, ip, window)
        user = None
        if event.user != ANONYMOUS:
            user = self._track(tenant, "user", event.user, ts)
            if user.count(event, kind, network_of(event.client_ip)):
                self._turn(tenant, user, window)
        tenant.top = max(tenant.top, ip.requests, user.requests if user else 0)
        if event.fingerprint is not None:
            self._template(tenant, event, ip, user, out)
        ip.skip -= 1
        if ip.skip <= 0:
            ip.keyed = user is not None
            ip.backed = user is not None and user.known(ts)
            self._look(tenant, ip, event, out)
        if user is not None:
            user.skip -= 1
            if user.skip <= 0:
                self._look(tenant, user, event, out)
        return out

    def _tenant(self, name: str) -> Tenant:
        tenant = Tenant(name, self.settings.max_subjects, self.clock.now)
        if not self._started:
            self._started = self.clock.now
        self.tenants[name] = tenant
        return tenant

    def _track(self, tenant: Tenant, kind: str, id_: str, ts: float) -> Track:
        tracks = tenant.tracks[kind]
        track = tracks.get(id_)
        if track is None:
            track = Track(kind=kind, id=id_, tenant=tenant.name, born=ts, last=ts)
            track.window = int(ts // WINDOW_S)
            track.minute = int(ts // 60)
            tracks.put(id_, track)
        return track

    # -- windows -----------------------------------------------------------------------

    def _turn(self, tenant: Tenant, track: Track, window: int) -> None:
        """A subject's window is over: score it for the tails, then learn it."""
        self._give_envelope(track)
        self._learn(track, track.envelope, "requests", track.requests)
        self._learn(track, track.token_envelope, "tokens", track.tokens)
        if track.requests and not track.judged:
            tenant.peers.learn(track.peak_m)
            tenant.peers_w.learn(track.requests)
            tenant.peers_t.learn(track.tokens)
        track.turn_window(window)

    def _give_envelope(self, track: Track) -> None:
        """A week of its own for whoever comes back; taken from those who do not."""
        key = (track.tenant, track.kind, track.id)
        if track.envelope is not None:
            self._envelopes.get(key)  # used again
            return
        if track.born // WINDOW_S > track.window - _ENVELOPE_AFTER:
            return
        track.envelope = new_envelope(WINDOW_S, REQUESTS_UNIT)
        track.token_envelope = new_envelope(WINDOW_S, TOKENS_UNIT)
        self._envelopes.put(key, True)

    def _take_envelopes(self) -> None:
        """Weeks of subjects that were not seen for long make room."""
        for tenant in self.tenants.values():
            for track in _tracks(tenant):
                key = (track.tenant, track.kind, track.id)
                if track.envelope is not None and key not in self._envelopes:
                    track.envelope = track.token_envelope = None

    def _learn(
        self, track: Track, envelope: Envelope | None, meter: str, count: float
    ) -> None:
        if envelope is None:
            return
        window = track.window
        if envelope.age and not track.judged:
            expected = envelope.expect(window)
            surprise = (envelope.value(count) - expected.level) / expected.spread
            if envelope.age >= WINDOW_S // 12:
                self.tails[meter].learn(surprise)
        envelope.learn(window, count, judged=track.judged)

    def _turn_tenant(self, tenant: Tenant, window: int) -> None:
        if tenant.window >= 0:
            tenant.tide.learn(
                tenant.window,
                tenant.requests,
                judged=tenant.surge_until > self.clock.now,
            )
        tenant.requests = tenant.top = 0
        tenant.window = window

    # -- looking closely ---------------------------------------------------------------

    def _look(
        self, tenant: Tenant, track: Track, event: Event, out: list[Output]
    ) -> None:
        track.skip = max(3, track.requests_m >> 3)
        now = event.ts
        finding = classify(self.facts(tenant, track, now))
        if finding is None or finding.score < self.settings.ladder.tag:
            self.bench.calm(track)
            return
        track.judged = track.judged or finding.behaviour
        partner = (
            Ref("user", event.user)
            if track.kind == "client_ip"
            else Ref("client_ip", event.client_ip)
        )
        out += self.bench.verdict(self._case(tenant, track, finding, now), partner)

    def _case(self, tenant: Tenant, track: Track, finding: Finding, now: float) -> Case:
        observed = {
            "requests_1m": float(round(track.rate_m(now))),
            "requests_10m": float(track.requests),
            "tokens_10m": float(track.tokens),
        }
        expected = {"requests_1m": round(tenant.peers.busy(), 1)}
        if track.envelope is not None and track.envelope.age:
            level = track.envelope.expect(track.window).level
            expected = {"requests_10m": round(track.envelope.count(level), 1)}
        return Case(
            tenant=tenant,
            subject=Ref(track.kind, track.id),
            known=track.known(now),
            finding=finding,
            now=now,
            since=max(track.born, now - WINDOW_S),
            observed=observed,
            expected=expected,
        )

    def facts(self, tenant: Tenant, track: Track, now: float) -> Facts:
        """What the classes are told apart by."""
        conduct, before = track.conduct, track.conduct_b
        rate = track.rate_m(now)
        busy = tenant.peers.busy()
        known = track.known(now)
        asks, answers = track.growth()
        facts = Facts(
            kind=track.kind,
            known=known,
            age_s=now - track.born,
            requests_m=rate,
            requests=track.requests,
            tokens=track.tokens,
            expected_m=busy,
            peer_sigma=max(
                _peer_sigma(rate, busy),
                _peer_sigma(track.requests, tenant.peers_w.busy()),
            ),
            token_peer_sigma=_peer_sigma(track.tokens, tenant.peers_t.busy()),
            backed=track.backed,
            keyed=track.keyed,
            most_same=track.most_same,
            failed=conduct[FAILED] + before[FAILED],
            cold=now - tenant.born < self.settings.grace_s,
            templated=track.templated,
            alike=track.alike_share(),
            usual_alike=track.usual_alike,
            apart=track.apart,
            ok=conduct[OK] + before[OK],
            denied=conduct[DENIED] + before[DENIED],
            missing=conduct[MISSING] + before[MISSING],
            rejected=conduct[REJECTED] + before[REJECTED],
            targets=len(track.targets),
            newcomers=track.newcomers + track.newcomers_b,
            usual_newcomers=track.usual_newcomers,
            most_newcomers=track.most_newcomers,
            company=len(track.company),
            strange_models=track.strange_models,
            longer_asks=asks,
            longer_answers=answers,
            regular=track.regular(),
            outage=tenant.outage_until > now,
            surge=tenant.surge_until > now,
        )
        if track.envelope is not None and track.token_envelope is not None:
            self._volumes(facts, track, track.envelope, track.token_envelope)
        return facts

    def _volumes(
        self, facts: Facts, track: Track, requests: Envelope, tokens: Envelope
    ) -> None:
        window = max(track.window, requests.last + 1)
        usual = requests.expect(window)
        facts.expected_requests = requests.count(usual.level)
        surprise = (requests.value(track.requests) - usual.level) / usual.spread
        facts.request_sigma = self.tails["requests"].sigma(surprise)
        if facts.request_sigma >= _NOTABLE:
            facts.most_requests = requests.most()
        usual = tokens.expect(window)
        facts.expected_tokens = tokens.count(usual.level)
        surprise = (tokens.value(track.tokens) - usual.level) / usual.spread
        facts.token_sigma = self.tails["tokens"].sigma(surprise)
        if facts.token_sigma >= _NOTABLE:
            facts.most_tokens = tokens.most()
            facts.most_requests = facts.most_requests or requests.most()

    # -- crowds ------------------------------------------------------------------------

    def _template(
        self,
        tenant: Tenant,
        event: Event,
        ip: Track,
        user: Track | None,
        out: list[Output],
    ) -> None:
        prints = tenant.templates
        found, bits = prints.find(event.fingerprint or 0)
        ts = event.ts
        if found is None:
            found = prints.add(event.fingerprint or 0, ts)
        fresh = ts - ip.born < NEWCOMER_S
        found.count(ts, event.client_ip, bits, fresh=fresh)
        young = found.requests >= _DENSE and not found.known(ts)
        ip.template(young=young)
        if user is not None:
            user.template(young=young)
        newcomer = fresh or (user is not None and ts - user.born < NEWCOMER_S)
        if newcomer and found.abusive_until > ts:
            out += self.bench.join(tenant, found, ip, user, ts)
        found.skip -= 1
        if found.skip > 0:
            return
        found.skip = max(4, found.requests_m >> 3)
        prints.place(found)
        finding = judge_template(tenant, found, ts, ts - self._started)
        if finding is not None:
            out += self.bench.crowd(tenant, found, finding, ts)

    def _sweep(self, now: float) -> list[Output]:
        """Every ten seconds: tenants as a whole, what is over, tails once an hour."""
        self._sweep_at = now + _SWEEP_S
        out: list[Output] = []
        for tenant in self.tenants.values():
            finding = judge_tenant(tenant, now, self.settings, self.tails["requests"])
            if finding is not None:
                out += self.bench.whole(tenant, finding, now)
        if now >= self._refit_at:
            self._refit_at = now + _REFIT_S
            for tail in self.tails.values():
                tail.refit()
            self._take_envelopes()
        return out + self.bench.sweep(now)

    # -- state -------------------------------------------------------------------------

    def state(self) -> bytes:
        """Everything that must survive a restart; what is held back is handed out at
        ``close`` and is no part of it.
        """
        return msgspec.msgpack.encode(
            _Saved(
                now=self.clock.now,
                started=self._started,
                tails=self.tails,
                tracks=[one for t in self.tenants.values() for one in _tracks(t)],
                tenants={name: _saved(t) for name, t in self.tenants.items()},
                bench=msgspec.Raw(msgspec.msgpack.encode(self.bench.state())),
            )
        )

    def load(self, saved: bytes) -> None:
        """Take over a state."""
        held = msgspec.msgpack.decode(saved, type=_Saved)
        self.clock.now = held.now
        self._started = held.started
        self.tails = held.tails
        for name, known in held.tenants.items():
            tenant = self._tenant(name)
            tenant.born, tenant.tide = known.born, known.tide
            tenant.window, tenant.requests = known.window, known.requests
            for peers, bins in zip(tenant.all_peers(), known.peers, strict=True):
                peers.restore(bins)
            for template in known.templates:
                tenant.templates.place(template)
        for track in held.tracks:
            self.tenants[track.tenant].tracks[track.kind].put(track.id, track)
            if track.envelope is not None:
                self._envelopes.put((track.tenant, track.kind, track.id), True)
        self.bench.load(held.bench)

    @classmethod
    def restore(cls, saved: bytes, settings: DetectSettings | None = None) -> Engine:
        """An engine that goes on where another one stopped."""
        return cls(settings, saved)


class _SavedTenant(msgspec.Struct, array_like=True):
    born: float
    tide: Envelope
    window: int
    requests: int
    peers: list[list[float]]
    templates: list[Template]


class _Saved(msgspec.Struct):
    now: float
    started: float
    tails: dict[str, Tail]
    tracks: list[Track]
    tenants: dict[str, _SavedTenant]
    bench: msgspec.Raw


def _saved(tenant: Tenant) -> _SavedTenant:
    return _SavedTenant(
        born=tenant.born,
        tide=tenant.tide,
        window=tenant.window,
        requests=tenant.requests,
        peers=[peers.bins for peers in tenant.all_peers()],
        templates=tenant.templates.all()[-_SAVED_TEMPLATES:],
    )


def _tracks(tenant: Tenant) -> Iterable[Track]:
    for tracks in tenant.tracks.values():
        yield from tracks.values()


def _peer_sigma(rate: float, busy: float) -> float:
    """How far beyond the busiest of its peers, in sigma; 0 up to them."""
    if rate <= busy:
        return 0.0
    return min(12.0, _PEER_SIGMAS * log(rate / busy))
