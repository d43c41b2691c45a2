"""Value types of the configuration: durations, sizes, secrets, URLs, addresses."""

from __future__ import annotations

import re
from decimal import Decimal
from ipaddress import ip_address
from typing import Any

_DURATION_US = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
}
_SIZE_BYTES = {
    "b": 1,
    "kb": 1_000,
    "mb": 1_000_000,
    "gb": 1_000_000_000,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern})+")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmg]i?b|b)", re.IGNORECASE)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_USERINFO = re.compile(r"(?<=://)[^/?#]*@")

# Default directory of the embedded engine, relative to the configuration file or else
# the working directory. Each gateway needs a directory of its own.
EMBEDDED_DIRECTORY = "./tidegate-data"

DURATION_EXAMPLES = '"250ms", "30s", "5m", "1h30m", "1d"'
SIZE_EXAMPLES = '"512B", "64KiB", "32MiB", "1GiB", or a whole number of bytes'


class Duration(float):
    """Seconds; written ``"250ms"``, ``"5m"``, ``"1h30m"``."""

    __slots__ = ()

    @property
    def us(self) -> int:
        """Whole microseconds."""
        return round(self * 1_000_000)

    def __str__(self) -> str:
        return format_duration(self)


class Size(int):
    """Bytes; written ``"64KiB"``, ``"32MiB"``."""

    __slots__ = ()

    def __str__(self) -> str:
        return format_size(self)


class FilePath(str):
    """An absolute path; the file states it relative to its own directory."""

    __slots__ = ()


class Url(str):
    """A URL whose ``repr`` hides the password."""

    __slots__ = ()

    def masked(self) -> str:
        """The URL with user and password replaced by ``***``."""
        return _USERINFO.sub("***@", str(self))

    def __repr__(self) -> str:
        return repr(self.masked())


class StoreUrl(Url):
    """URL of the store; the directory of ``embedded:`` is absolute."""

    __slots__ = ()


class Secret:
    """A value that is never printed; ``source``: where it came from."""

    __slots__ = ("_value", "source")

    def __init__(self, value: str, source: str = "plain") -> None:
        self._value = value
        self.source = source

    def reveal(self) -> str:
        """The value itself."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({self.source})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)


def parse_duration(text: str) -> Duration:
    """Seconds of ``"250ms"``, ``"5m"``, ``"1h30m"``; raises ValueError."""
    if not _DURATION.fullmatch(text.strip()):
        msg = f'"{text}" is not a duration'
        raise ValueError(msg)
    parts = _DURATION_PART.findall(text)
    micros = sum(Decimal(number) * _DURATION_US[unit] for number, unit in parts)
    return Duration(micros / 1_000_000)


def parse_size(value: str | int) -> Size:
    """Bytes of ``"32MiB"`` or of a whole number; raises ValueError."""
    if isinstance(value, int):
        if value < 0:
            msg = f"{value} is negative"
            raise ValueError(msg)
        return Size(value)
    if value.strip().isdecimal():
        return Size(int(value))
    match = _SIZE.fullmatch(value.strip())
    if not match:
        msg = f'"{value}" is not a size'
        raise ValueError(msg)
    return Size(Decimal(match[1]) * _SIZE_BYTES[match[2].lower()])


def format_duration(seconds: float) -> str:
    """Shortest exact spelling: 90.0 -> ``90s``, 0.25 -> ``250ms``, 0.0 -> ``0s``."""
    micros = round(seconds * 1_000_000)
    if micros == 0:
        return "0s"
    unit = next(u for u in reversed(_DURATION_US) if micros % _DURATION_US[u] == 0)
    return f"{micros // _DURATION_US[unit]}{unit}"


def format_size(size: int) -> str:
    """Shortest exact binary spelling: 33554432 -> ``32MiB``."""
    for unit, step in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size and size % step == 0:
            return f"{size // step}{unit}"
    return f"{int(size)}B"


def to_toml(value: Any) -> str:
    """A value as TOML writes it: text, number, duration, size, list of these."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Duration):
        return f'"{format_duration(value)}"'
    if isinstance(value, Size):
        return f'"{format_size(value)}"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(to_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def toml_key(name: str) -> str:
    """A key as TOML writes it: quoted unless it is a bare key."""
    return name if _BARE_KEY.fullmatch(name) else f'"{name}"'


def parse_address(text: str) -> tuple[str, int]:
    """``host:port``, ``[v6]:port`` or ``:port`` (every address) as (host, port)."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65_535:  # noqa: PLR2004
        msg = f'"{text}" is not host:port'
        raise ValueError(msg)
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], int(port)
    if ":" in host or "/" in host or " " in host:
        msg = f'"{text}" is not host:port (IPv6: "[::1]:8080")'
        raise ValueError(msg)
    return host or "0.0.0.0", int(port)  # noqa: S104 - what ":8080" asks for


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address bound to ``host``. Names other than
    ``localhost`` are not: DNS may resolve them to any address.
    """
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
