"""Which column of a log holds what: by its usual names, or by the user's word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from gateway.offline.errors import InputError

# Names that logs and exports use, the likelier first. Compared in snake case, so
# ``promptTokens`` and ``Prompt Tokens`` are found too; a name after a dot stands for a
# field inside a JSON object (``usage.prompt_tokens``).
USUAL: dict[str, tuple[str, ...]] = {
    "time": (
        "ts", "timestamp", "time", "datetime", "date_time", "created_at", "created",
        "start_time", "starttime", "started_at", "request_time", "requested_at",
        "request_timestamp", "event_time", "timestamp_utc", "timestamp_ms", "time_ms",
        "logged_at", "at", "date", "event_timestamp", "time_stamp", "log_time",
        "log_timestamp", "request_date", "usage_date", "created_time", "creation_time",
        "received_at", "occurred_at", "epoch", "epoch_ms", "unix_time", "unixtime",
        "unix_timestamp", "date_utc", "time_utc", "utc_time", "dt", "end_time",
    ),
    "user": (
        "user", "user_id", "userid", "username", "user_name", "end_user",
        "end_user_id", "customer", "customer_id", "api_key", "api_key_id", "key",
        "key_id", "apikey", "key_hash", "account", "account_id", "client", "client_id",
        "consumer", "principal", "subject", "uid",
        "user.id", "user_identifier", "user_email", "email", "api_key_name",
        "key_name", "key_alias", "caller", "organization_id", "organization", "org_id",
    ),
    "prompt": (
        "prompt_tokens", "input_tokens", "n_prompt", "n_prompt_tokens", "tokens_in",
        "num_prompt_tokens", "prompt_token_count", "input_token_count", "tokens_prompt",
        "n_context_tokens_total", "usage_prompt_tokens", "usage_input_tokens",
        "request_tokens", "context_tokens", "prompt_eval_count", "in_tokens",
        "usage.prompt_tokens", "usage.input_tokens", "contexttokens",
    ),
    "completion": (
        "completion_tokens", "output_tokens", "n_completion", "n_completion_tokens",
        "tokens_out", "num_completion_tokens", "completion_token_count",
        "output_token_count", "tokens_completion", "generated_tokens",
        "n_generated_tokens_total", "usage_completion_tokens", "usage_output_tokens",
        "response_tokens", "candidates_token_count", "eval_count", "out_tokens",
        "usage.completion_tokens", "usage.output_tokens", "generatedtokens",
    ),
    "total": (
        "total_tokens", "tokens", "tokens_total", "token_count", "n_tokens",
        "num_tokens", "total_token_count", "usage_total_tokens", "usage.total_tokens",
        "total_token", "token_usage", "tokens_used", "used_tokens", "usage_tokens",
    ),
}  # fmt: skip
# Tokens, too, but only where nothing clearer is there.
_VAGUE_TOTAL = ("usage", "token", "total_usage")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_OTHER = re.compile(r"[^a-z0-9.]+")


class Choice(msgspec.Struct, frozen=True):
    """Columns that the user named; None: find it."""

    time: str | None = None
    user: str | None = None
    total: str | None = None
    prompt: str | None = None
    completion: str | None = None


ANY = Choice()


class LogColumns(msgspec.Struct, frozen=True):
    """The columns of one file. ``user`` None: the file does not tell users apart."""

    time: str
    user: str | None
    total: str | None
    prompt: str | None
    completion: str | None

    @property
    def counts(self) -> list[str]:
        """The columns that hold tokens."""
        held = (self.total, self.prompt, self.completion)
        return [name for name in held if name is not None]

    @property
    def names(self) -> list[str]:
        """Every column that is read, each once."""
        held = (self.time, self.user, self.total, self.prompt, self.completion)
        return list(dict.fromkeys(name for name in held if name is not None))


def find_columns(
    names: Sequence[str], choice: Choice = ANY, *, source: str = "the frame"
) -> LogColumns:
    """The columns among ``names``; raises InputError for what is missing."""
    found = {role: _pick(names, role, getattr(choice, role), source) for role in USUAL}
    time = found["time"]
    if time is None:
        raise InputError(_missing(source, "time", "--time-column", names))
    if not (found["total"] or found["prompt"] or found["completion"]):
        found["total"] = _first(names, _VAGUE_TOTAL)
    if not (found["total"] or found["prompt"] or found["completion"]):
        flags = "--tokens-column, or --prompt-column and --completion-column"
        raise InputError(_missing(source, "token", flags, names))
    return LogColumns(
        time, found["user"], found["total"], found["prompt"], found["completion"]
    )


def _pick(
    names: Sequence[str], role: str, named: str | None, source: str
) -> str | None:
    if named is not None:
        if named not in names:
            raise InputError(f"{source}: no column {named!r}; {_list(names)}")
        return named
    return _first(names, USUAL[role])


def _first(names: Sequence[str], usual: Sequence[str]) -> str | None:
    spelled = {_spell(name): name for name in reversed(names)}
    return next((spelled[name] for name in usual if name in spelled), None)


def _spell(name: str) -> str:
    snake = _CAMEL.sub("_", name.strip().lstrip("\ufeff"))
    return _OTHER.sub("_", snake.lower()).strip("_")


def _missing(source: str, what: str, flags: str, names: Iterable[str]) -> str:
    return f"{source}: no {what} column found; {_list(names)}; name it with {flags}"


def _list(names: Iterable[str]) -> str:
    shown = [name[:40] for name in names][:30]
    return f"it has {', '.join(shown)}" if shown else "it has no columns"
