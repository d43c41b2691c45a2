"""Detection settings from a configuration, lines to events, outputs to lines."""

from __future__ import annotations

import msgspec
import pytest

from gateway.config import load_config
from gateway.detect.detectors import DetectionSettings
from gateway.detect.model import EvidenceWindow, Output, Ref
from gateway.stream.source import LINE_LIMIT_BYTES, SourceError
from gateway.stream.watch import (
    DEFAULTS,
    Watch,
    open_detectors,
    printable,
    readable_line,
    settings_from,
)

HEAD = '[[upstream]]\nurl = "https://api.example"\n'
GOOD = b'{"timestamp": 1767600000, "client_ip": "10.0.0.1"}'
FOUND = Output(
    "client.blocked", "inc_1", "2026-01-05T08:00:00.000Z", "critical", "ddos", 6.0,
    Ref("user", "eve\x1b[2J"), "acme", "block", None,
    EvidenceWindow("2026-01-05T07:59:00.000Z", "2026-01-05T08:00:00.000Z"), {}, {},
    ("Far too many.", "And more."),
)  # fmt: skip


def watching(settings=None):
    """A Watch that collects outputs and errors in lists."""
    written, errors = [], []
    detectors = open_detectors(settings or DetectionSettings(DEFAULTS))
    return (
        Watch(detectors, write=written.append, print_error=errors.append),
        written,
        errors,
    )


def test_settings_come_from_each_tenants_policy():
    """Scores, ladder, allow list and campaigns of the file; unknown tenants: default."""
    text = HEAD + (
        "[policy.default.anomaly]\nwarning = 2.5\nladder = { tag = 2.0 }\n"
        '[policy.vip]\nallow = ["198.51.100.7"]\nanomaly = { critical = 9.0 }\n'
        "[policy.off]\nanomaly = { enabled = false }\n"
        '[[tenant]]\nname = "a"\npolicy = "vip"\nheader = { name = "x-t", value = "a" }\n'
        '[[tenant]]\nname = "b"\npolicy = "off"\nheader = { name = "x-t", value = "b" }\n'
        '[[campaign]]\ntenant = "a"\nfrom = 2026-12-01T09:00:00\n'
        "to = 2026-12-01T10:00:00Z\nexpect = 6.0\n"
    )
    settings = settings_from(load_config(None, {}, {}, text=text))
    assert settings.of("b") is None
    assert (settings.of("?").warning, settings.of("?").ladder.tag) == (2.5, 2.0)
    assert settings.of("a").critical == 9.0
    assert settings.of("a").allow == {"client_ip:198.51.100.7"}
    (campaign,) = settings.of("a").campaigns
    assert (campaign.tenant, campaign.to - campaign.since) == ("a", 3600.0)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"nonsense", "malformed"),
        (b"[]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"[" * 100_000, ""),
        (b'{"client_ip": "a"}', "timestamp: missing"),
        (b'{"timestamp": 1}', "client_ip: missing"),
        (GOOD[:-1] + b', "prompt_tokens": 1' + b"0" * 400 + b"}", ""),
        (GOOD[:-1] + b', "status": "\xff"}', ""),
        (GOOD[:-1] + b', "status": 1' + b"0" * 400 + b"}", ""),
        (GOOD[:-1] + b', "client_ip": "\\ud800"}', ""),
        (b"x" * (LINE_LIMIT_BYTES + 1), "longer than 1 MiB"),
    ],
)
def test_malformed_lines_break_nothing(line, why):
    """A malformed line is counted and reported; the next line is read."""
    watch, _written, errors = watching()
    watch.run([GOOD, line, GOOD])
    assert watch.counts.events + watch.counts.malformed == 3
    if watch.counts.malformed:
        assert errors[0].startswith("line 2: ")
        assert why in errors[0]
        assert "1 of 3 lines" in watch.summary()[0]
    else:
        assert why == ""


def test_blank_lines_and_a_byte_order_mark_are_no_errors():
    """Empty lines are skipped; a byte order mark before the first line is removed."""
    watch, _written, errors = watching()
    watch.run([b"\xef\xbb\xbf" + GOOD, b"", b"  \r", GOOD + b"\r"])
    assert (watch.counts.events, watch.counts.malformed, errors) == (2, 0, [])


def test_late_events_are_counted_in_the_summary():
    """Events more than 60 s behind the newest are counted in the summary."""
    watch, _written, _said = watching()
    others = [GOOD.replace(b"10.0.0.1", b"10.0.0.%d" % n) for n in range(2, 6)]
    watch.run([GOOD, *others, GOOD.replace(b"1767600000", b"1767599000")])
    assert watch.summary()[0].startswith("1 of 6 events were not counted")


def test_an_interrupt_is_an_end():
    """An interrupt ends the input; held events are still processed."""
    watch, _written, _said = watching()

    def lines():
        yield GOOD
        raise KeyboardInterrupt

    watch.run(lines())
    assert watch.counts.events == 1


def test_severity_decides_what_fails():
    """``reaches`` compares the worst severity; info outputs do not count."""
    watch, written, _said = watching()
    watch._write_outputs([msgspec.structs.replace(FOUND, severity="warning")])
    assert watch.counts.reaches("warning")
    assert not watch.counts.reaches("critical")
    assert len(written) == 1


def test_lines_for_people_cannot_drive_a_terminal():
    """Control characters of ids are escaped in the line of text."""
    line = readable_line(FOUND).decode()
    assert line == (
        "2026-01-05T08:00:00.000Z  critical  ddos              blocked  "
        "  user eve\\x1b[2J of acme  block  Far too many.\n"
    )
    assert printable("é\u202e") == "é\\u202e"


def test_broken_baselines_are_refused():
    """A file that is not a detector state raises SourceError."""
    with pytest.raises(SourceError, match="no baselines"):
        open_detectors(DetectionSettings(DEFAULTS), b"\x93abc")
