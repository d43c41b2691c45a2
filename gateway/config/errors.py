"""Configuration errors: every fault with its place and the allowed values."""

from __future__ import annotations

import msgspec

Key = tuple[str | int, ...]


class Problem(msgspec.Struct, frozen=True):
    """One fault. ``line`` is 0 for a value that is not from a file."""

    source: str  # file, environment variable, flag
    line: int
    key: str
    message: str
    allowed: str = ""

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}" if self.line else self.source
        text = ": ".join(part for part in (place, self.key, self.message) if part)
        return f"{text} (allowed: {self.allowed})" if self.allowed else text


class ConfigError(Exception):
    """The configuration cannot be used; ``problems`` holds every fault found.

    ``line`` and ``key`` are those of the first fault.
    """

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems

    @property
    def line(self) -> int:
        return self.problems[0].line

    @property
    def key(self) -> str:
        return self.problems[0].key


def format_key(key: Key) -> str:
    """Text of a key path: ``upstream[0].timeouts.idle``."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if part.replace("-", "_").isidentifier() else f'"{part}"'
            text += f".{name}" if text else name
    return text
