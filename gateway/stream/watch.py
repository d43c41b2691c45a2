"""Feeds lines of events to the detectors and writes their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from gateway.config import Config, effective_policy
from gateway.config.resolve import declared_campaigns, tenant_tables
from gateway.detect.detectors import DetectionSettings, Detectors, settings_of
from gateway.detect.event_mapping import (
    EventLine,
    event_from_line,
    event_from_record,
)
from gateway.detect.model import (
    DetectSettings,
    Event,
    EventError,
    Output,
)
from gateway.detect.packed_baselines import BaselinesError
from gateway.stream.source import LINE_LIMIT_BYTES, SourceError
from gateway.stream.time_shift import TimeShiftedReplay

# Recorded events are put into order within this time (docs/detection.md).
REORDER_S = 60.0
# Malformed lines that are reported one by one.
NAMED = 5
# Over 1,000 times the largest request of any model; larger values could overflow sums.
_MOST_TOKENS = 10**12
_decode_line = msgspec.json.Decoder(EventLine).decode
_BOM = b"\xef\xbb\xbf"
SEVERITIES = ("info", "warning", "critical")

DEFAULTS = DetectSettings(reorder_s=REORDER_S)


def settings_from(config: Config | None) -> DetectionSettings:
    """Detection as the policies configure it, always in enforce mode: ``watch`` takes
    no action, its outputs say what would have been done.
    """
    if config is None:
        return DetectionSettings(DEFAULTS)
    policies = {
        table.name: effective_policy(config, table.policy).policy
        for table in tenant_tables(config)
    }
    default = effective_policy(config, "default").policy
    return settings_of(policies, default, declared_campaigns(config), REORDER_S)


def open_detectors(
    settings: DetectionSettings, baselines: bytes | None = None
) -> Detectors:
    """Detectors that start from ``baselines``. Raises SourceError if they are invalid."""
    try:
        return Detectors(settings, baselines)
    except BaselinesError as error:
        raise SourceError(str(error)) from None


class WatchCounts(msgspec.Struct):
    """Counts of lines and events, and the worst severity."""

    lines: int = 0
    events: int = 0
    malformed: int = 0
    worst: int = 0  # index in SEVERITIES

    def reaches(self, severity: str) -> bool:
        """Whether an output had at least this severity."""
        return self.worst >= SEVERITIES.index(severity)


class Watch:
    """Takes lines of events and writes outputs. ``write`` gets lines of UTF-8,
    ``print_error`` gets sentences about unusable input.
    """

    def __init__(
        self,
        detectors: Detectors,
        *,
        write: Callable[[bytes], object],
        print_error: Callable[[str], object],
        as_json: bool = False,
    ) -> None:
        self.counts = WatchCounts()
        self._detectors: Detectors | TimeShiftedReplay = detectors
        self._write = write
        self._print_error = print_error
        self._encode = _json_line if as_json else readable_line
        self._decode = msgspec.json.Decoder().decode

    def run(self, lines: Iterable[bytes]) -> None:
        """Process all lines; an interrupt ends the input."""
        try:
            for line in lines:
                self.take(line)
        except KeyboardInterrupt:
            pass
        self._write_outputs(self._detectors.close())

    def take(self, line: bytes) -> None:
        """Process one line: an event, an empty line, or a malformed one."""
        counts = self.counts
        counts.lines += 1
        try:
            event = self._event(line)
        except (ValueError, RecursionError) as error:
            self._malformed(str(error) or "nested too deep")
            return
        if event is not None:
            if not counts.events:
                self._begin(event)
            counts.events += 1
            self._write_outputs(self._detectors.observe(event))

    def _begin(self, event: Event) -> None:
        """Shift time if the first event is not newer than the baselines."""
        if isinstance(self._detectors, Detectors):
            self._detectors = TimeShiftedReplay.shift_if_needed(
                self._detectors, event.ts
            )
        if isinstance(self._detectors, TimeShiftedReplay):
            self._print_error(
                "the baselines cover the time of these events or a later time: events are"
                " judged as if they came after it"
            )

    def _event(self, line: bytes) -> Event | None:
        if len(line) > LINE_LIMIT_BYTES:
            raise EventError("longer than 1 MiB")
        if self.counts.lines == 1:
            line = line.removeprefix(_BOM)
        if not line or line.isspace():
            return None
        event = self._decode_fast(line) or self._decode_slow(line)
        if event.tokens > _MOST_TOKENS:
            raise EventError("tokens: out of range")
        return event

    def _decode_fast(self, line: bytes) -> Event | None:
        """Fast path: the event of a line with fields of the expected types, else None."""
        if not line.isascii():  # the slow path validates UTF-8
            return None
        try:
            return event_from_line(_decode_line(line))
        except (ValueError, RecursionError):
            return None

    def _decode_slow(self, line: bytes) -> Event:
        """Slow path: the event of any line, or an error that says what is wrong."""
        record: Any = self._decode(line)
        if not isinstance(record, dict):
            raise EventError("not a JSON object")
        return event_from_record(record)

    def _malformed(self, why: str) -> None:
        self.counts.malformed += 1
        if self.counts.malformed <= NAMED:
            self._print_error(f"line {self.counts.lines}: {printable(why)}; skipped")

    def _write_outputs(self, outputs: list[Output]) -> None:
        for output in outputs:
            self.counts.worst = max(
                self.counts.worst, SEVERITIES.index(output.severity)
            )
            self._write(self._encode(output))

    def summary(self) -> list[str]:
        """Sentences about input that was not counted."""
        counts, misplaced = self.counts, self._detectors.misplaced
        sentences = []
        if counts.malformed:
            sentences.append(
                f"{counts.malformed} of {counts.lines} lines were malformed and skipped"
            )
        if misplaced:
            sentences.append(
                f"{misplaced} of {counts.events} events were not counted: more than"
                f" {REORDER_S:.0f} s behind the newest, or alone far ahead"
            )
        return sentences


def _json_line(output: Output) -> bytes:
    return msgspec.json.encode(output) + b"\n"


def readable_line(output: Output) -> bytes:
    """An output as one line of text: time, severity, class, subject, action, reason."""
    subject = f"{output.subject.kind} {output.subject.id}"
    if output.subject.kind != "tenant":
        subject += f" of {output.tenant}"
    event = output.type.rpartition(".")[2]
    reason = output.reasons[0] if output.reasons else ""
    words = (
        f"{output.ts}  {output.severity:8}  {output.cls:16}  {event:9}"
        f"  {subject}  {output.action}  {reason}"
    )
    return printable(words).rstrip().encode("utf-8", "backslashreplace") + b"\n"


def printable(text: str) -> str:
    """Escape control characters: ids come from clients and may hold terminal codes."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode()
        for one in text
    )
