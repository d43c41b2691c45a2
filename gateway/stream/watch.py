"""Lines of events through the detector: what ``tidegate watch`` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from gateway.config import Config, effective_policy
from gateway.config.resolve import tenant_tables
from gateway.core.model import Policy
from gateway.detect.engine import Engine
from gateway.detect.model import (
    Campaign,
    DetectSettings,
    Event,
    EventError,
    LadderSettings,
    Output,
    event_from_record,
)
from gateway.stream.source import LINE_LIMIT_BYTES, SourceError

# Recorded events are put into order within this time (interfaces: Records).
REORDER_S = 60.0
# Malformed lines that are named one by one.
NAMED = 5
# No request of any model has a thousandth of it; more cannot be summed up.
_MOST_TOKENS = 10**12
_BOM = b"\xef\xbb\xbf"
SEVERITIES = ("info", "warning", "critical")

DEFAULTS = DetectSettings(reorder_s=REORDER_S)


class Settings(msgspec.Struct, frozen=True):
    """Detection by tenant; None: its policy does not want any."""

    default: DetectSettings | None = DEFAULTS
    tenants: Mapping[str, DetectSettings | None] = {}

    def of(self, tenant: str) -> DetectSettings | None:
        """What holds for a tenant; one that nobody declared has the default."""
        return self.tenants.get(tenant, self.default)


def settings_from(config: Config) -> Settings:
    """Detection as the policies state it, in enforce mode: ``watch`` acts on nobody,
    so it tells what would have been done.
    """
    zone = ZoneInfo(config.server.timezone)
    campaigns = tuple(
        Campaign(
            since=_epoch(campaign.starts, zone),
            to=_epoch(campaign.ends, zone),
            expect=campaign.expect,
            tenant=None if campaign.tenant == "*" else campaign.tenant,
        )
        for campaign in config.campaigns
    )

    def of(policy: str) -> DetectSettings | None:
        return _settings_of(effective_policy(config, policy).policy, campaigns)

    tenants = {table.name: of(table.policy) for table in tenant_tables(config)}
    return Settings(default=of("default"), tenants=tenants)


def _settings_of(
    policy: Policy, campaigns: tuple[Campaign, ...]
) -> DetectSettings | None:
    anomaly = policy.anomaly
    if not anomaly.enabled:
        return None
    return DetectSettings(
        warning=anomaly.warning,
        critical=anomaly.critical,
        ladder=LadderSettings(anomaly.tag, anomaly.throttle, anomaly.block),
        campaigns=campaigns,
        allow=frozenset(policy.allow),
        reorder_s=REORDER_S,
    )


def _epoch(moment: datetime, zone: ZoneInfo) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp()


class Rooms:
    """A detector for each distinct settings; nearly always that is one."""

    def __init__(self, settings: Settings, baselines: bytes | None = None) -> None:
        self._settings = settings
        self._engines: list[Engine] = []
        self._by_tenant: dict[str, Engine | None] = {}
        for wanted in (settings.default, *settings.tenants.values()):
            if wanted is not None and self._find(wanted) is None:
                self._engines.append(_engine(wanted, baselines))

    def observe(self, event: Event) -> list[Output]:
        """One event; nothing where its tenant's policy has detection off."""
        engine = self._of(event.tenant)
        return self._own(engine, engine.observe(event)) if engine else []

    def close(self) -> list[Output]:
        """The end of all events."""
        out: list[Output] = []
        for engine in self._engines:
            out += self._own(engine, engine.close())
        return out

    @property
    def misplaced(self) -> int:
        """Events not counted: too late, or alone in the future."""
        return sum(engine.late + engine.clock.absurd for engine in self._engines)

    def _own(self, engine: Engine, outputs: list[Output]) -> list[Output]:
        """Baselines hold every tenant; what a room says of others' tenants is not
        heard.
        """
        if len(self._engines) == 1:
            return outputs
        return [one for one in outputs if self._of(one.tenant) is engine]

    def _of(self, tenant: str) -> Engine | None:
        if tenant not in self._settings.tenants:
            tenant = ""  # one entry for all that nobody declared
        if tenant not in self._by_tenant:
            self._by_tenant[tenant] = self._find(self._settings.of(tenant))
        return self._by_tenant[tenant]

    def _find(self, settings: DetectSettings | None) -> Engine | None:
        return next((one for one in self._engines if one.settings == settings), None)


def _engine(settings: DetectSettings, baselines: bytes | None) -> Engine:
    try:
        return Engine(settings, baselines)
    except (msgspec.DecodeError, ValueError, LookupError) as error:
        raise SourceError(f"these are no baselines: {error}") from None


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
        rooms: Rooms,
        *,
        write: Callable[[bytes], object],
        complain: Callable[[str], object],
        as_json: bool = False,
    ) -> None:
        self.tally = Tally()
        self._rooms = rooms
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
            tally.events += 1
            self._hand_out(self._rooms.observe(event))

    def _event(self, line: bytes) -> Event | None:
        if len(line) > LINE_LIMIT_BYTES:
            raise EventError("longer than 1 MiB")
        if self.tally.lines == 1:
            line = line.removeprefix(_BOM)
        if not line or line.isspace():
            return None
        record: Any = self._decode(line)
        if not isinstance(record, dict):
            raise EventError("not a JSON object")
        event = event_from_record(record)
        if event.tokens > _MOST_TOKENS:
            raise EventError("tokens: out of range")
        return event

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
