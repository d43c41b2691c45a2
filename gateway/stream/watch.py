"""Lines of events through the detector: what ``tidegate watch`` does."""

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
from gateway.stream.later import Later
from gateway.stream.source import LINE_LIMIT_BYTES, SourceError

# Recorded events are put into order within this time (interfaces: Records).
REORDER_S = 60.0
# Malformed lines that are named one by one.
NAMED = 5
# No request of any model has a thousandth of it; more cannot be summed up.
_MOST_TOKENS = 10**12
_decode_line = msgspec.json.Decoder(EventLine).decode
_BOM = b"\xef\xbb\xbf"
SEVERITIES = ("info", "warning", "critical")

DEFAULTS = DetectSettings(reorder_s=REORDER_S)


def settings_from(config: Config | None) -> DetectionSettings:
    """Detection as the policies state it, in enforce mode: ``watch`` acts on nobody,
    so it tells what would have been done.
    """
    if config is None:
        return DetectionSettings(DEFAULTS)
    policies = {
        table.name: effective_policy(config, table.policy).policy
        for table in tenant_tables(config)
    }
    default = effective_policy(config, "default").policy
    return settings_of(policies, default, declared_campaigns(config), REORDER_S)


def open_rooms(
    settings: DetectionSettings, baselines: bytes | None = None
) -> Detectors:
    """Raises SourceError for what are no baselines."""
    try:
        return Detectors(settings, baselines)
    except BaselinesError as error:
        raise SourceError(str(error)) from None


class Tally(msgspec.Struct):
    """What came in and what came out."""

    lines: int = 0
    events: int = 0
    malformed: int = 0
    worst: int = 0  # place in SEVERITIES

    def reaches(self, severity: str) -> bool:
        """Whether anything of this severity or above was found."""
        return self.worst >= SEVERITIES.index(severity)


class Watch:
    """Takes lines, writes findings. ``write`` is given whole lines of UTF-8,
    ``complain`` sentences about the input.
    """

    def __init__(
        self,
        rooms: Detectors,
        *,
        write: Callable[[bytes], object],
        complain: Callable[[str], object],
        as_json: bool = False,
    ) -> None:
        self.tally = Tally()
        self._rooms: Detectors | Later = rooms
        self._write = write
        self._complain = complain
        self._encode = _json_line if as_json else readable_line
        self._decode = msgspec.json.Decoder().decode

    def run(self, lines: Iterable[bytes]) -> None:
        """All of ``lines``; an interrupt is an end like any other."""
        try:
            for line in lines:
                self.take(line)
        except KeyboardInterrupt:
            pass
        self._hand_out(self._rooms.close())

    def take(self, line: bytes) -> None:
        """One line: an event, nothing, or something to complain of."""
        tally = self.tally
        tally.lines += 1
        try:
            event = self._event(line)
        except (ValueError, RecursionError) as error:
            self._malformed(str(error) or "nested too deep")
            return
        if event is not None:
            if not tally.events:
                self._begin(event)
            tally.events += 1
            self._hand_out(self._rooms.observe(event))

    def _begin(self, event: Event) -> None:
        """With the first event it is known how its time stands to the baselines'."""
        if isinstance(self._rooms, Detectors):
            self._rooms = Later.for_first(self._rooms, event.ts)
        if isinstance(self._rooms, Later):
            self._complain(
                "the baselines were learned from this time or a later one: events are"
                " judged as if they came after it"
            )

    def _event(self, line: bytes) -> Event | None:
        if len(line) > LINE_LIMIT_BYTES:
            raise EventError("longer than 1 MiB")
        if self.tally.lines == 1:
            line = line.removeprefix(_BOM)
        if not line or line.isspace():
            return None
        event = self._usual(line) or self._unusual(line)
        if event.tokens > _MOST_TOKENS:
            raise EventError("tokens: out of range")
        return event

    def _usual(self, line: bytes) -> Event | None:
        """The event of a line without any oddness: nearly all of them."""
        if not line.isascii():  # whether it is UTF-8 is seen by reading all of it
            return None
        try:
            return event_from_line(_decode_line(line))
        except (ValueError, RecursionError):
            return None

    def _unusual(self, line: bytes) -> Event:
        """The event of any line, or the error that says what is wrong with it."""
        record: Any = self._decode(line)
        if not isinstance(record, dict):
            raise EventError("not a JSON object")
        return event_from_record(record)

    def _malformed(self, why: str) -> None:
        self.tally.malformed += 1
        if self.tally.malformed <= NAMED:
            self._complain(f"line {self.tally.lines}: {printable(why)}; skipped")

    def _hand_out(self, outputs: list[Output]) -> None:
        for output in outputs:
            self.tally.worst = max(self.tally.worst, SEVERITIES.index(output.severity))
            self._write(self._encode(output))

    def summary(self) -> list[str]:
        """What of the input was not counted, in sentences."""
        tally, misplaced = self.tally, self._rooms.misplaced
        said = []
        if tally.malformed:
            said.append(
                f"{tally.malformed} of {tally.lines} lines were malformed and skipped"
            )
        if misplaced:
            said.append(
                f"{misplaced} of {tally.events} events were not counted: more than"
                f" {REORDER_S:.0f} s behind the newest, or alone far ahead"
            )
        return said


def _json_line(output: Output) -> bytes:
    return msgspec.json.encode(output) + b"\n"


def readable_line(output: Output) -> bytes:
    """A finding for people: when, how bad, what, who, what is done, why."""
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
    """Ids come from clients: none of them may drive a terminal."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode()
        for one in text
    )
