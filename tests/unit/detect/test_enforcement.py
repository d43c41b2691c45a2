"""A sweep over due states gives the outputs of a sweep over all of them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import Ladder
from gateway.detect.enforcement import EnforcementStates
from gateway.detect.model import DetectSettings, Output, Ref
from gateway.detect.responses import CandidateAlert, ResponseManager
from gateway.detect.rules.facts import Signal
from gateway.detect.subject import SubjectState
from gateway.detect.tenant import TenantState

T = 1_767_607_200.0
WALK = Signal("scraping", 9.0, behaviour=True, reasons=("Walks.",))
# Blocks shorter than tags: a standing's time may come sooner than it was.
SETTINGS = DetectSettings(ladder=Ladder(block_ttl_s=40.0))


def find(bench: ResponseManager, id_: str, score: float, now: float) -> list[Output]:
    """One verdict about an address."""
    finding = msgspec.structs.replace(WALK, score=score)
    tenant = TenantState("t", 100, T - 200_000.0)
    case = CandidateAlert(tenant, Ref("client_ip", id_), False, finding, now, T, {}, {})
    return bench.verdict(case, Ref("user", "nobody"))


STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.0, 10.0, 10.0, 290.0, 1800.0, 86_400.0]),
        st.sampled_from(["find", "find", "find", "calm", "sweep", "sweep", "restart"]),
        st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]),
        st.sampled_from([3.5, 4.5, 9.0]),
    ),
    max_size=60,
)


class AllStates(EnforcementStates):
    """The reference: every state is looked at in every sweep."""

    def _ready(self, now):
        super()._ready(now)
        return set(self)


def scanning():
    """A response manager that looks at every state."""
    manager = ResponseManager(SETTINGS)
    manager.states = AllStates()
    return manager


def scheduled():
    """A response manager as the detector uses it."""
    return ResponseManager(SETTINGS)


@given(STEPS)
def test_a_sweep_over_due_states_misses_none(steps):
    """The same outputs in the same order, and every state is kept equally long."""
    makers = [scanning, scheduled]
    benches = [make() for make in makers]
    now = T
    for step, what, id_, score in steps:
        now += step
        said = []
        for place, bench in enumerate(benches):
            if what == "find":
                said.append(find(bench, id_, score, now))
            elif what == "calm":
                said.append(bench.calm(SubjectState("client_ip", id_, "t", T, T)))
            elif what == "sweep":
                said.append(bench.sweep(now))
            else:
                saved = msgspec.msgpack.encode(bench.state())
                benches[place] = makers[place]()
                benches[place].load(saved)
        assert said[1:] == said[:-1]
        assert list(benches[0].states.items()) == list(benches[1].states.items())


def test_a_crowd_is_forgotten_sooner(monkeypatch):
    """With more states than half of the limit, all calm ones are forgotten."""
    monkeypatch.setattr("gateway.detect.enforcement.MOST_STATES", 8)
    bench = ResponseManager(SETTINGS)
    for n in range(4):
        find(bench, f"10.0.0.{n}", 3.5, T)
    assert (bench.sweep(T + 2000), len(bench.states)) == ([], 4)
    find(bench, "10.0.0.9", 3.5, T + 2100)
    assert bench.sweep(T + 2101) == []
    assert [key[2] for key in bench.states] == ["10.0.0.9"]


def test_a_sweep_looks_at_few():
    """A sweep does not look at blocks that are not due."""
    bench = ResponseManager(DetectSettings())
    for n in range(50):
        find(bench, f"10.0.0.{n}", 9.0, T)
        find(bench, f"10.0.0.{n}", 9.0, T + 1)
    assert bench.sweep(T + 10) == []
    assert not bench.states._ready(T + 590)
    assert len(bench.sweep(T + 700)) == pytest.approx(50)


def test_a_time_that_no_longer_counts_is_passed_over():
    """A block shorter than the tag before it is looked at once, not twice."""
    bench = ResponseManager(SETTINGS)
    find(bench, "10.0.0.1", 3.5, T)
    assert bench.sweep(T + 1) == []
    find(bench, "10.0.0.1", 9.0, T + 2)
    find(bench, "10.0.0.1", 9.0, T + 3)
    bench.sweep(T + 4)
    tagged, blocked = max(bench.states._due)[0], min(bench.states._due)[0]
    assert tagged > blocked
    assert bench.states._ready(blocked) == {("t", "client_ip", "10.0.0.1")}
    assert not bench.states._ready(tagged)
