"""The detector: events in, verdicts and incidents out. Event time only, deterministic.

An event updates its tenant, address, user and prompt template. A subject is judged
every few events, more often the fewer it has sent; a signal becomes an incident only
with evidence that lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from gateway.detect.baseline import UpperBaseline, new_upper_baseline
from gateway.detect.model import (
    REFUSED_STATUS,
    DetectSettings,
    Event,
    Output,
    Ref,
    ResponseAction,
)
from gateway.detect.order import EventClock, ReorderBuffer
from gateway.detect.peers import FEW_COUNT, LEAST_COUNT, ConcurrentPeers
from gateway.detect.prompts import learn_prompt
from gateway.detect.responses import CandidateAlert, ResponseManager
from gateway.detect.rules.classify import classify
from gateway.detect.rules.crowd import judge_tenant
from gateway.detect.rules.facts import EARLY_S, Facts, Signal, peer_score
from gateway.detect.rules.prefilter import LOUD_M, notable
from gateway.detect.rules.stolen_key import SUSPICIOUS
from gateway.detect.saved import Saved, save_tenant, subjects_of
from gateway.detect.score import Tail, new_tail
from gateway.detect.service_maximum import new_service_maxima
from gateway.detect.subject import (
    DENIED,
    FAILED,
    FAN_OUT,
    LITTLE_NOVELTY,
    MINUTE_S,
    MISSING,
    NOVELTY_S,
    OK,
    REJECTED,
    WINDOW_S,
    SubjectState,
    nearness,
    network_of,
    outcome_of,
)
from gateway.detect.tenant import REQUESTS_UNIT, TOKENS_UNIT, RecentKeys, TenantState

ANONYMOUS = "anonymous"
# Windows a subject must have been seen in before it gets a week of its own.
_ENVELOPE_AFTER = 2
_REFIT_S = 3600.0
_SWEEP_S = 10.0
# A tenant without a request for so long is not looked at.
_IDLE_S = 180.0
# Addresses whose network is remembered.
_NETWORKS = 4096
_TURNED_AWAY = frozenset({DENIED, MISSING})
# Scores below this are not looked into further.
_NOTABLE = 2.0
# And only of those that reach this it is asked how steady they are.
_STANDS_OUT = 4.0


class Engine:
    """One detector, for all tenants of the same settings: feed ``observe`` by time."""

    def __init__(
        self, settings: DetectSettings | None = None, baselines: bytes | None = None
    ) -> None:
        self.settings = settings or DetectSettings()
        self.clock = EventClock(recorded=self.settings.reorder_s > 0.0)
        self.tenants: dict[str, TenantState] = {}
        self.tails: dict[str, Tail] = {"requests": new_tail(), "tokens": new_tail()}
        self.service_maxima = new_service_maxima()
        self.responses = ResponseManager(self.settings)
        self.events = 0
        self.forgotten = 0  # tenants that made room for others
        self._buffer = ReorderBuffer(self.settings.reorder_s)
        self._networks: dict[str, str] = {}
        self._baselines: RecentKeys = RecentKeys(self.settings.max_baselines)
        self._refit_at = 0.0
        self._sweep_at = 0.0
        self._started = 0.0
        if baselines is not None:
            self.load(baselines)

    # -- what callers use --------------------------------------------------------------

    def observe(self, event: Event) -> list[Output]:
        """Take one event in; the verdicts and incidents that it brings about."""
        ready = self.clock.admit(event)
        return self._take(ready) if ready else []

    def observe_outcome(self, event: Event) -> list[Output]:
        """The end of a request that was observed at its beginning (with status 0, for
        it had no answer yet): how it was answered, and what it cost.
        """
        tenant = self.tenants.get(event.tenant)
        if tenant is None:
            return []
        kind = outcome_of(event.status)
        tenant.count_outcome(event, kind)
        ip = tenant.subjects["client_ip"].get(event.client_ip)
        if ip is not None:
            ip.count_outcome(event, kind, event.user)
        user = tenant.subjects["user"].get(event.user)
        if user is not None:
            user.count_outcome(event, kind, network_of(event.client_ip))
        return []

    def advance(self, now: float) -> list[Output]:
        """Event time has come to ``now`` without an event."""
        out = self._take(self.clock.advance(now))
        self._release(now - self._buffer.hold_s, out)
        if now >= self._sweep_at:
            out += self._sweep(now)
        return out

    def close(self) -> list[Output]:
        """No more events: hand out what was held, end what is open."""
        out = self._take(self.clock.close())
        self._release(float("inf"), out)
        return out + self.responses.close(self.clock.now)

    def action_for(
        self, kind: str, id_: str, tenant: str | None = None
    ) -> ResponseAction:
        """What is done to a subject now; ``tenant`` None: the strictest anywhere."""
        return self.responses.action_for(kind, id_, tenant, self.clock.now)

    @property
    def late(self) -> int:
        """Events that came too late to be counted."""
        return self.clock.late

    # -- one event ---------------------------------------------------------------------

    def _take(self, ready: Iterable[Event]) -> list[Output]:
        out: list[Output] = []
        if self._buffer.hold_s <= 0.0:
            for event in ready:
                self._handle(event, out)
            return out
        for event in ready:
            self._buffer.push(event)
        self._release(self.clock.now - self._buffer.hold_s, out)
        return out

    def _release(self, until: float, out: list[Output]) -> None:
        for event in self._buffer.pop_until(until):
            self._handle(event, out)

    def _handle(self, event: Event, out: list[Output]) -> None:
        ts, times = event.ts, event.times
        self.events += times
        if ts >= self._sweep_at:
            out += self._sweep(ts)
        tenant = self.tenants.get(event.tenant)
        if tenant is None:
            tenant = self._tenant(event.tenant)
        kind = outcome_of(event.status)
        window = int(ts // WINDOW_S)
        if window > tenant.window:
            self._turn_tenant(tenant, window)
        tenant.count(event, kind)
        address, name = event.client_ip, event.user
        tokens = event.total_tokens or event.prompt_tokens + event.completion_tokens
        tenant.concurrent_ips.count(address, tokens, times)
        ip = tenant.ips.get(address) or self._track(tenant, "client_ip", address, ts)
        print_ = event.fingerprint
        near = None if print_ is None else nearness(ip.prints, print_)
        user = same = None
        if name != ANONYMOUS:
            user = tenant.users.get(name) or self._track(tenant, "user", name, ts)
            # One key at one address: both have seen the same prompts.
            same = near if user.prints == ip.prints else None
        if ip.count(event, kind, name, near):
            self._turn(tenant, ip, window)
        tenant.top = max(tenant.top, ip.requests)
        if user is not None:
            tenant.concurrent_users.count(name, tokens, times)
            if user.count(event, kind, self._network(address), same):
                self._turn(tenant, user, window)
            tenant.top = max(tenant.top, user.requests)
        if print_ is not None:
            refused = kind in _TURNED_AWAY
            out += learn_prompt(
                self.responses, tenant, event, ip, user, refused=refused
            )
        ip.skip -= times
        if ip.skip <= 0:
            ip.keyed = user is not None
            ip.backed = user is not None and user.known(ts)
            self._look(tenant, ip, event, out)
        if user is not None:
            user.skip -= times
            if user.skip <= 0:
                self._look(tenant, user, event, out)
        if event.status == REFUSED_STATUS:
            self.responses.observe_blocked_retry(event)

    def _network(self, address: str) -> str:
        """As ``network_of``; remembered, for addresses come again."""
        known = self._networks
        network = known.get(address)
        if network is None:
            if len(known) >= _NETWORKS:
                known.clear()
            network = known[address] = network_of(address)
        return network

    def _tenant(self, name: str) -> TenantState:
        if len(self.tenants) >= self.settings.max_tenants:
            self._forget_tenants()
        tenant = TenantState(name, self.settings.max_subjects, self.clock.now)
        if not self._started:
            self._started = self.clock.now
        self.tenants[name] = tenant
        return tenant

    def _forget_tenants(self) -> None:
        """A quarter makes room: those not seen for longest, of the same minute those
        with the least history.
        """
        tenants = sorted(
            self.tenants.values(),
            key=lambda one: (one.minute, one.seasonal_baseline.age),
        )
        for tenant in tenants[: 1 + len(tenants) // 4]:
            del self.tenants[tenant.name]
            self.forgotten += 1

    def _track(
        self, tenant: TenantState, kind: str, id_: str, ts: float
    ) -> SubjectState:
        """A subject that was not seen before."""
        track = SubjectState(kind=kind, id=id_, tenant=tenant.name, born=ts, last=ts)
        track.window = int(ts // WINDOW_S)
        track.minute = int(ts // 60)
        tenant.subjects[kind].put(id_, track)
        return track

    # -- windows -----------------------------------------------------------------------

    def _turn(self, tenant: TenantState, track: SubjectState, window: int) -> None:
        """A subject's window is over: score it for the tails, then learn it."""
        self._give_baseline(track)
        self._learn(track, track.baseline, "requests", track.requests)
        self._learn(track, track.token_baseline, "tokens", track.tokens)
        if track.requests and not track.judged:
            tenant.peers.learn(track.peak_m)
            tenant.peers_w.learn(track.requests)
            tenant.peers_t.learn(track.tokens)
            if not track.keyed:
                self._reach(track)
        track.turn_window(window)

    def _reach(self, track: SubjectState) -> None:
        """What this subject came to counts as what subjects come to."""
        key = f"{track.tenant} {track.kind} {track.id}"
        reach = self.service_maxima
        reach["minute"].learn(key, track.peak_m)
        reach["requests"].learn(key, track.requests)
        reach["tokens"].learn(key, track.tokens)
        reach["longest"].learn(key, track.longest)
        if track.repetition_run and not track.repetition_judged:
            # Services run for days: what counts is how long newcomers' runs are.
            if not track.known(track.last):
                reach["run"].learn(key, track.repetition_run)
            reach["run_tokens"].learn(key, track.repetition_tokens)

    def _give_baseline(self, track: SubjectState) -> None:
        """A week of its own for whoever comes back; taken from those who do not."""
        key = (track.tenant, track.kind, track.id)
        if track.baseline is not None:
            self._baselines.get(key)  # used again
            return
        if track.born // WINDOW_S > track.window - _ENVELOPE_AFTER:
            return
        track.baseline = new_upper_baseline(WINDOW_S, REQUESTS_UNIT)
        track.token_baseline = new_upper_baseline(WINDOW_S, TOKENS_UNIT)
        self._baselines.put(key, True)

    def _take_baselines(self) -> None:
        """Weeks of subjects that were not seen for long make room."""
        for tenant in self.tenants.values():
            for track in subjects_of(tenant):
                key = (track.tenant, track.kind, track.id)
                if track.baseline is not None and key not in self._baselines:
                    track.baseline = track.token_baseline = None

    def _learn(
        self,
        track: SubjectState,
        envelope: UpperBaseline | None,
        meter: str,
        count: float,
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

    def _turn_tenant(self, tenant: TenantState, window: int) -> None:
        if tenant.window >= 0:
            tenant.seasonal_baseline.learn(
                tenant.window,
                tenant.requests,
                judged=tenant.abused or tenant.surge_until > self.clock.now,
            )
        tenant.turn_newcomers()
        tenant.requests = tenant.top = tenant.young = 0
        tenant.flooded = 0
        tenant.window = window

    # -- looking closely ---------------------------------------------------------------

    def _look(
        self, tenant: TenantState, track: SubjectState, event: Event, out: list[Output]
    ) -> None:
        track.skip = max(3, track.requests_m >> 3)
        now = event.ts
        if not self._notable(tenant, track, now):
            self.responses.calm(track)
            return
        finding = classify(self.facts(tenant, track, now))
        if finding is None or finding.score < self.settings.ladder.tag:
            self.responses.calm(track)
            return
        if finding.behaviour and finding.page_worthy:
            tenant.abused = True
            track.judged = track.repetition_judged = True
            sure = finding.score >= self.settings.ladder.block
            # Suspicion is no evidence for further suspicion.
            sure = sure and track.suspicious + track.suspicious_b < SUSPICIOUS
            if sure and finding.cls == "credential_abuse":
                track.suspect(now)
        track.skip = min(track.skip, 2)
        partner = (
            Ref("user", event.user)
            if track.kind == "client_ip"
            else Ref("client_ip", event.client_ip)
        )
        out += self.responses.verdict(self._case(tenant, track, finding, now), partner)

    def _notable(self, tenant: TenantState, track: SubjectState, now: float) -> bool:
        """Whether the rules may find anything; False is certain."""
        cold = now - tenant.born < self.settings.grace_s
        known = track.known(now)
        rate = track.rate_m(now)
        if known or not cold:
            return notable(track, rate, known=known, cold=cold)
        if track.quiet():
            return False
        if notable(track, rate, known=False, cold=True):
            return True
        live = tenant.concurrent[track.kind]
        heads = max(1, len(track.company)) if track.keyed else 1
        if rate >= (FEW_COUNT if live.silent else LEAST_COUNT) * heads:
            return True
        if live.silent:
            return False
        part = now / MINUTE_S - track.minute
        return live.size_score(track.id, part) >= self.settings.ladder.tag

    def _case(
        self, tenant: TenantState, track: SubjectState, finding: Signal, now: float
    ) -> CandidateAlert:
        observed: dict[str, float] = {
            "requests_1m": round(track.rate_m(now)),
            "tokens_1m": round(track.tokens_1m(now)),
            "requests_10m": track.requests,
            "tokens_10m": track.tokens,
        }
        expected = {"requests_1m": round(tenant.peers.busy(), 1)}
        if track.baseline is not None and track.baseline.age:
            level = track.baseline.expect(track.window).level
            expected = {"requests_10m": round(track.baseline.count(level), 1)}
        return CandidateAlert(
            tenant=tenant,
            subject=Ref(track.kind, track.id),
            known=track.known(now),
            signal=finding,
            now=now,
            since=max(track.born, now - WINDOW_S),
            observed=observed,
            expected=expected,
            prints=track.prints,
        )

    def facts(self, tenant: TenantState, track: SubjectState, now: float) -> Facts:
        """What the classes are told apart by."""
        conduct, before = track.outcomes, track.outcomes_b
        rate = track.rate_m(now)
        busy = tenant.peers.busy()
        known = track.known(now)
        cold = now - tenant.born < self.settings.grace_s
        # Behind one address may be many people; later on each is known by its key.
        heads = max(1, len(track.company)) if track.keyed else 1
        heads_now = heads if cold else 1
        live = tenant.concurrent[track.kind]
        facts = Facts(
            kind=track.kind,
            known=known,
            familiar=track.familiar(now),
            age_s=now - track.born,
            requests_m=rate,
            requests=track.requests,
            tokens=track.tokens,
            expected_m=busy,
            concurrent_m=live.mean_of_others(track.id),
            expected_rate_m=tenant.expected_rate_m(),
            heads=heads,
            fan_out=(
                tenant.fan_out(track, now)
                if cold and track.kind == "user" and len(track.company) >= FAN_OUT
                else 0
            ),
            peer_score=max(
                peer_score(rate / heads_now, busy),
                peer_score(track.requests / heads_now, tenant.peers_w.busy()),
            ),
            token_peer_score=peer_score(track.tokens, tenant.peers_t.busy()),
            backed=track.backed,
            keyed=track.keyed,
            failed=conduct[FAILED] + before[FAILED],
            cold=cold,
            early=now - tenant.born < EARLY_S,
            templated=track.templated,
            alike=track.alike_share(),
            usual_alike=track.usual_alike,
            apart=track.apart,
            ok=conduct[OK] + before[OK],
            denied=conduct[DENIED] + before[DENIED],
            missing=conduct[MISSING] + before[MISSING],
            rejected=conduct[REJECTED] + before[REJECTED],
            targets=len(track.targets or ()),
            newcomers=track.newcomers + track.newcomers_b,
            company=len(track.company),
            windows=track.windows,
            repetition_run=track.repetition_run,
            repetition_tokens=track.repetition_tokens,
            repetition_judged=track.repetition_judged,
            most_repetition_run=track.most_repetition_run,
            most_repetition_tokens=track.most_repetition_tokens,
            same_size=track.same_size,
            same_size_streak=track.same_size_streak,
            most_same_size_streak=track.most_same_size_streak,
            asked=track.asked,
            longest=track.longest,
            most_longest=track.most_longest,
            service_longest=self.service_maxima["longest"].usual,
            spoken=track.spoken + track.spoken_w,
            louder_answers=track.louder(),
            service_m=self.service_maxima["minute"].usual,
            service_requests=self.service_maxima["requests"].usual,
            service_tokens=self.service_maxima["tokens"].usual,
            service_repetition_run=self.service_maxima["run"].usual,
            service_repetition_tokens=self.service_maxima["run_tokens"].usual,
            longer_asks=track.growth(),
            sized=track.sized,
            longer_answers=track.longer(),
            regular=track.regular(),
            outage=tenant.outage_until > now,
            surge=tenant.surge_until > now,
        )
        if track.kind == "user":
            track.fade(now)
            facts.new_networks, facts.new_models = track.new_networks, track.new_models
            facts.most_new_networks, facts.most_new_models = (
                track.most_new_networks,
                track.most_new_models,
            )
            facts.alternations, facts.most_alternations = (
                track.alternations,
                track.most_alternations,
            )
            if facts.familiar and not known:
                facts.older = sum(now - at > NOVELTY_S for at in track.company.values())
            facts.suspicious = track.suspicious + track.suspicious_b
        if not known and (cold or rate >= LOUD_M):
            facts.concurrent_score = self._stands_out(live, track, heads, now)
            facts.concurrent_size = live.size_score(track.id, now / 60 - track.minute)
        if track.baseline is not None and track.token_baseline is not None:
            self._volumes(facts, track, track.baseline, track.token_baseline)
        return facts

    def _stands_out(
        self, live: ConcurrentPeers, track: SubjectState, heads: int, now: float
    ) -> float:
        """Of an address with several users, each is compared with its peers."""
        before = minutes = 0.0
        if track.id not in live.loud:
            before, minutes = track.earlier(now)
        score = live.score(track.rate_m(now) / heads, before / heads, minutes)
        if heads == 1:
            score = max(score, live.early_score(track.id))
        if score >= self.settings.warning:
            live.loud.add(track.id)
        return score

    def _volumes(
        self,
        facts: Facts,
        track: SubjectState,
        requests: UpperBaseline,
        tokens: UpperBaseline,
    ) -> None:
        window = max(track.window, requests.last + 1)
        usual = requests.expect(window)
        facts.expected_requests = requests.count(usual.level)
        surprise = (requests.value(track.requests) - usual.level) / usual.spread
        facts.request_score = self.tails["requests"].score(surprise)
        facts.odd = facts.new_networks >= LITTLE_NOVELTY and requests.is_odd(window)
        usual = tokens.expect(window)
        facts.expected_tokens = tokens.count(usual.level)
        surprise = (tokens.value(track.tokens) - usual.level) / usual.spread
        facts.token_score = self.tails["tokens"].score(surprise)
        if max(facts.token_score, facts.request_score) >= _NOTABLE:
            facts.most_tokens = tokens.most()
            facts.most_requests = requests.most()
        if max(facts.token_score, facts.request_score) >= _STANDS_OUT:
            facts.steady = requests.steadiness()

    # -- time --------------------------------------------------------------------------

    def _sweep(self, now: float) -> list[Output]:
        """Every ten seconds: tenants as a whole, what is over, tails once an hour."""
        self._sweep_at = now + _SWEEP_S
        out: list[Output] = []
        for tenant in self.tenants.values():
            if tenant.minute * MINUTE_S < now - _IDLE_S:
                continue
            finding = judge_tenant(tenant, now, self.settings, self.tails["requests"])
            if finding is not None:
                out += self.responses.whole(tenant, finding, now)
        if now >= self._refit_at:
            self._refit_at = now + _REFIT_S
            for tail in self.tails.values():
                tail.refit()
            subjects = sum(one.population() for one in self.tenants.values()) // 2
            for reach in self.service_maxima.values():
                reach.refresh(now, subjects)
            self._take_baselines()
        return out + self.responses.sweep(now)

    # -- state -------------------------------------------------------------------------

    def state(self) -> bytes:
        """What must survive a restart, without the events held for ordering."""
        return msgspec.msgpack.encode(
            Saved(
                now=self.clock.now,
                started=self._started,
                tails=self.tails,
                service_maxima=self.service_maxima,
                subjects=[one for t in self.tenants.values() for one in subjects_of(t)],
                tenants={name: save_tenant(t) for name, t in self.tenants.items()},
                responses=msgspec.Raw(msgspec.msgpack.encode(self.responses.state())),
            )
        )

    def load(
        self, saved: bytes, keep: Callable[[str], bool] = lambda _tenant: True
    ) -> None:
        """Take over a state, of the tenants that ``keep`` wants; may be repeated."""
        held = msgspec.msgpack.decode(saved, type=Saved)
        self.clock.now = max(self.clock.now, held.now)
        self._started = min(self._started or held.started, held.started)
        self.tails = held.tails
        self.service_maxima |= held.service_maxima
        for name, known in held.tenants.items():
            if not keep(name):
                continue
            tenant = self._tenant(name)
            tenant.born, tenant.seasonal_baseline = known.born, known.seasonal_baseline
            tenant.window, tenant.requests = known.window, known.requests
            for peers, bins in zip(tenant.all_peers(), known.peers, strict=True):
                peers.restore(bins)
            for template in known.templates:
                tenant.templates.place(template)
        for track in held.subjects:
            if not keep(track.tenant) or track.tenant not in self.tenants:
                continue
            self.tenants[track.tenant].subjects[track.kind].put(track.id, track)
            if track.baseline is not None:
                self._baselines.put((track.tenant, track.kind, track.id), True)
        self.responses.load(held.responses, keep)
