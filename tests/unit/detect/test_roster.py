"""A bench that looks only at whose time has come says what one that looks at all does."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.detect.model import DetectSettings, LadderSettings, Output, Ref
from gateway.detect.responses import Bench, Case
from gateway.detect.roster import Roster
from gateway.detect.rules.facts import Finding
from gateway.detect.subject import Track
from gateway.detect.tenant import Tenant

T = 1_767_607_200.0
WALK = Finding("scraping", 9.0, behaviour=True, reasons=("Walks.",))
# Blocks shorter than tags: a standing's time may come sooner than it was.
SETTINGS = DetectSettings(ladder=LadderSettings(block_ttl_s=40.0))


def find(bench: Bench, id_: str, score: float, now: float) -> list[Output]:
    """One verdict about an address."""
    finding = msgspec.structs.replace(WALK, score=score)
    tenant = Tenant("t", 100, T - 200_000.0)
    case = Case(tenant, Ref("client_ip", id_), False, finding, now, T, {}, {})
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


@given(STEPS)
def test_it_says_what_a_bench_says(steps):
    """The same lines in the same order, and nobody is forgotten sooner or later."""
    benches = [Bench(SETTINGS), Roster(SETTINGS)]
    now = T
    for step, what, id_, score in steps:
        now += step
        said = []
        for place, bench in enumerate(benches):
            if what == "find":
                said.append(find(bench, id_, score, now))
            elif what == "calm":
                said.append(bench.calm(Track("client_ip", id_, "t", T, T)))
            elif what == "sweep":
                said.append(bench.sweep(now))
            else:
                saved = msgspec.msgpack.encode(bench.state())
                benches[place] = type(bench)(SETTINGS)
                benches[place].load(saved)
        assert said[1:] == said[:-1]
        assert list(benches[0].standings.items()) == list(benches[1].standings.items())


def test_a_crowd_is_forgotten_sooner(monkeypatch):
    """With more standings than half of the most, all of the calm ones are let go."""
    monkeypatch.setattr("gateway.detect.roster.MOST_STANDINGS", 8)
    bench = Roster(SETTINGS)
    for n in range(4):
        find(bench, f"10.0.0.{n}", 3.5, T)
    assert (bench.sweep(T + 2000), len(bench.standings)) == ([], 4)
    find(bench, "10.0.0.9", 3.5, T + 2100)
    assert bench.sweep(T + 2101) == []
    assert [key[2] for key in bench.standings] == ["10.0.0.9"]


def test_a_sweep_looks_at_few():
    """Who stays blocked for long costs nothing until then."""
    bench = Roster(DetectSettings())
    for n in range(50):
        find(bench, f"10.0.0.{n}", 9.0, T)
        find(bench, f"10.0.0.{n}", 9.0, T + 1)
    assert bench.sweep(T + 10) == []
    assert not bench._ready(T + 590)
    assert len(bench.sweep(T + 700)) == pytest.approx(50)


def test_a_time_that_no_longer_counts_is_passed_over():
    """Who is blocked for less long than it was tagged is looked at once, not twice."""
    bench = Roster(SETTINGS)
    find(bench, "10.0.0.1", 3.5, T)
    assert bench.sweep(T + 1) == []
    find(bench, "10.0.0.1", 9.0, T + 2)
    find(bench, "10.0.0.1", 9.0, T + 3)
    bench.sweep(T + 4)
    tagged, blocked = max(bench._due)[0], min(bench._due)[0]
    assert tagged > blocked
    assert bench._ready(blocked) == {("t", "client_ip", "10.0.0.1")}
    assert not bench._ready(tagged)
