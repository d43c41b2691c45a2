"""A sweep over due states gives the outputs of a sweep over all of them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import Ladder
from gateway.detect.enforcement import EnforcementStates
from gateway.detect.ladder import EnforcementState
from gateway.detect.model import DetectSettings, Output, Ref
from gateway.detect.responses import CandidateAlert, ResponseManager
from gateway.detect.rules.facts import Signal
from gateway.detect.subject import SubjectState
from gateway.detect.tenant import TenantState

T = 1_767_607_200.0
WALK = Signal("scraping", 9.0, behaviour=True, reasons=("Walks.",))
# Blocks are shorter than tags, so that the due time of a state can move forward.
SETTINGS = DetectSettings(ladder=Ladder(block_ttl_s=40.0))


def find(manager: ResponseManager, id_: str, score: float, now: float) -> list[Output]:
    """One verdict about an address."""
    finding = msgspec.structs.replace(WALK, score=score)
    tenant = TenantState("t", 100, T - 200_000.0)
    case = CandidateAlert(tenant, Ref("client_ip", id_), False, finding, now, T, {}, {})
    return manager.verdict(case, Ref("user", "nobody"))


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
    managers = [make() for make in makers]
    now = T
    for step, what, id_, score in steps:
        now += step
        said = []
        for place, manager in enumerate(managers):
            if what == "find":
                said.append(find(manager, id_, score, now))
            elif what == "calm":
                said.append(manager.calm(SubjectState("client_ip", id_, "t", T, T)))
            elif what == "sweep":
                said.append(manager.sweep(now))
            else:
                saved = msgspec.msgpack.encode(manager.state())
                managers[place] = makers[place]()
                managers[place].load(saved)
        assert said[1:] == said[:-1]
        assert list(managers[0].states.items()) == list(managers[1].states.items())


def test_many_states_are_dropped_sooner(monkeypatch):
    """With more states than half of the limit, all calm ones are forgotten."""
    monkeypatch.setattr("gateway.detect.enforcement.MOST_STATES", 8)
    manager = ResponseManager(SETTINGS)
    for n in range(4):
        find(manager, f"10.0.0.{n}", 3.5, T)
    assert (manager.sweep(T + 2000), len(manager.states)) == ([], 4)
    find(manager, "10.0.0.9", 3.5, T + 2100)
    assert manager.sweep(T + 2101) == []
    assert [key[2] for key in manager.states] == ["10.0.0.9"]


def test_a_sweep_looks_at_few():
    """A sweep does not look at blocks that are not due."""
    manager = ResponseManager(DetectSettings())
    for n in range(50):
        find(manager, f"10.0.0.{n}", 9.0, T)
        find(manager, f"10.0.0.{n}", 9.0, T + 1)
    assert manager.sweep(T + 10) == []
    assert not manager.states._ready(T + 590)
    assert len(manager.sweep(T + 700)) == pytest.approx(50)


def test_a_time_that_no_longer_counts_is_passed_over():
    """A block shorter than the tag before it is looked at once, not twice."""
    manager = ResponseManager(SETTINGS)
    find(manager, "10.0.0.1", 3.5, T)
    assert manager.sweep(T + 1) == []
    find(manager, "10.0.0.1", 9.0, T + 2)
    find(manager, "10.0.0.1", 9.0, T + 3)
    manager.sweep(T + 4)
    tagged, blocked = max(manager.states._due)[0], min(manager.states._due)[0]
    assert tagged > blocked
    assert manager.states._ready(blocked) == {("t", "client_ip", "10.0.0.1")}
    assert not manager.states._ready(tagged)


def test_a_state_that_is_put_again_keeps_its_place():
    """A subject that is put twice is one entry, with the later state."""
    states = EnforcementStates()
    key = ("t", "user", "u")
    first, later = states.obtain(key), EnforcementState()
    states.put(key, later)
    assert len(states) == 1
    assert states.obtain(key) is later is not first
