"""The prefilter skips only subjects for which no rule gives a signal."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.detect.engine import Engine
from gateway.detect.model import Event
from gateway.detect.rules.classify import classify
from gateway.detect.rules.prefilter import LOUD_M, notable, refusals
from gateway.detect.subject import OK, REJECTED, SubjectState

T = 1_767_607_200.0
DAY = 86_400.0
counts = st.sampled_from([0, 1, 5, 9, 14, 15, 19, 20, 26, 39, 40, 99, 100, 150, 700])
shares = st.sampled_from([0.0, 0.1, 0.16, 0.3, 0.5, 0.74, 0.75, 0.9, 1.0])
news = st.sampled_from([0.0, 0.4, 1.4, 1.5, 2.6, 9.0, 50.0])
sizes = st.sampled_from([0, 6, 12, 40])
TRACKS = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["user", "client_ip"]),
        "born": st.sampled_from([T - 9 * DAY, T - DAY / 2, T - 60]),
        "answered": st.sampled_from([0, 12, 50, 900]),
        "requests_m": counts,
        "requests_b": counts,
        "requests": counts,
        "tokens": st.sampled_from([0, 3000, 199_999, 200_000, 9_000_000]),
        "outcomes": st.lists(counts, min_size=5, max_size=5),
        "alike": shares,
        "templated": shares,
        "apart": st.sampled_from([0.0, 2.0, 4.0, 8.0]),
        "same_size": shares,
        "printed": counts,
        "new_networks": news,
        "new_models": news,
        "alternations": news,
        "most_new_networks": news,
        "newcomers": counts,
        "company": st.integers(0, 48).map(lambda n: {str(i): T for i in range(n)}),
        "suspects": st.none() | st.just({"a"}),
        "suspicious": counts,
        "repetition_run": counts,
        "repetition_tokens": st.sampled_from([0, 49_000, 60_000, 5_000_000]),
        "spoken": st.sampled_from([0, 4999, 5000, 90_000]),
        "sized": sizes,
        "usual_sized": sizes,
        "answers": st.sampled_from([0.0, 30.0, 90.0, 400.0]),
        "usual_answer": st.sampled_from([0.0, 2.0, 5.0]),
        "windows": counts,
        "keyed": st.booleans(),
        "backed": st.booleans(),
    }
)


def subject_of(**fields: object) -> SubjectState:
    """A subject in its current minute and window."""
    fields = {"born": T - 60} | fields
    subject = SubjectState(id="one", tenant="t", last=T, minute=int(T // 60), **fields)
    subject.window = int(T // 600)
    return subject


@settings(max_examples=600)
@given(TRACKS, st.booleans())
def test_what_is_not_notable_is_found_by_no_rule(fields, cold):
    """No rule has a signal for a subject that the prefilter skips, for any combination
    of fields.
    """
    subject = subject_of(**fields)
    engine = Engine()
    engine.observe(Event(T, "10.0.0.1", "another", "t"))
    tenant = engine.tenants["t"]
    tenant.born = T if cold else T - 9 * DAY
    if notable(subject, subject.rate_m(T), known=subject.known(T), cold=cold):
        return
    finding = classify(engine.facts(tenant, subject, T))
    assert finding is None or finding.score < engine.settings.ladder.tag


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({}, {}),
        ({"kind": "client_ip", "new_networks": 9.0}, {}),
        ({"requests": 500, "backed": True}, {}),
        ({"requests": 500}, {"known": True, "cold": True}),
        ({"requests": 50, "alike": 0.1}, {}),
        (
            {"requests": 80, "alike": 0.9, "repetition_run": 30, "keyed": True},
            {"cold": True},
        ),
        (
            {
                "spoken": 9000,
                "usual_sized": 50,
                "latest": 50,
                "lately": 5.0,
                "usual_answer": 5.0,
            },
            {},
        ),
    ],
)
def test_ordinary_subjects_are_skipped(fields, asked):
    """Subjects with little or usual traffic, or that are evaluated as a user, are
    skipped.
    """
    subject = subject_of(**{"kind": "user"} | fields)
    assert not notable(subject, 5.0, **{"known": False, "cold": False} | asked)


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({"outcomes": [0, 3, 3, 2, 0]}, {}),
        ({"suspects": {"a"}}, {}),
        ({"new_networks": 2.0}, {"known": True}),
        ({"company": dict.fromkeys("abcdefghij", T)}, {"cold": True}),
        ({"newcomers": 5, "newcomers_b": 3}, {}),
        ({"repetition_run": 20, "alike": 0.8}, {"known": True}),
        (
            {
                "spoken": 9000,
                "usual_sized": 50,
                "latest": 50,
                "lately": 7.0,
                "usual_answer": 5.0,
            },
            {},
        ),
        ({"requests": 100}, {"known": True}),
        ({"tokens": 200_000}, {}),
        ({"requests": 50, "alike": 0.5}, {}),
        ({"requests_m": 10, "requests_b": 5, "templated": 0.5}, {}),
    ],
)
def test_one_unusual_field_is_enough(fields, asked):
    """Each field with which a rule begins makes a subject notable."""
    subject = subject_of(kind="user", **fields)
    assert notable(subject, 5.0, **{"known": False, "cold": False} | asked)


def test_loud_newcomers_are_compared_with_their_peers():
    """A newcomer is compared with its peers from ``LOUD_M`` requests a minute."""
    subject = subject_of(kind="client_ip", backed=True)
    assert notable(subject, LOUD_M, known=False, cold=False)
    assert not notable(subject, LOUD_M - 1, known=False, cold=False)


def test_refusals_of_two_windows_count():
    """Refusals of the current and the last window count; successes and upstream errors
    do not.
    """
    subject = subject_of(
        kind="user", outcomes=[9, 1, 2, 3, 9], outcomes_b=[9, 4, 5, 6, 9]
    )
    assert refusals(subject) == 21
    assert subject.outcomes[OK] > subject.outcomes[REJECTED]
