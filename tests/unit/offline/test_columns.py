"""Detection of columns by their usual names."""

from __future__ import annotations

import pytest

from gateway.offline.columns import Choice, find_columns
from gateway.offline.errors import InputError


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("ts user prompt_tokens completion_tokens", "ts user - prompt_tokens completion_tokens"),
        ("Timestamp User_ID Tokens", "Timestamp User_ID Tokens - -"),
        ("createdAt customerId inputTokens outputTokens", "createdAt customerId - inputTokens outputTokens"),
        ("time api_key n_prompt n_completion", "time api_key - n_prompt n_completion"),
        ("date total_tokens", "date - total_tokens - -"),
        ("TIMESTAMP ContextTokens GeneratedTokens", "TIMESTAMP - - ContextTokens GeneratedTokens"),
        ("ts user usage.prompt_tokens usage.completion_tokens", "ts user - usage.prompt_tokens usage.completion_tokens"),
        ("event_timestamp user.id tokens_used", "event_timestamp user.id tokens_used - -"),
        ("usage_date organization_id usage", "usage_date organization_id usage - -"),
        ("usage usage.prompt_tokens time email", "time email - usage.prompt_tokens -"),
        ("model client_ip status user_id ts tokens", "ts user_id tokens - -"),
    ],
)  # fmt: skip
def test_usual_names(names, found):
    """Columns are found by their usual names in any case and order."""
    columns = find_columns(names.split())
    held = (
        columns.time, columns.user, columns.total, columns.prompt, columns.completion,
    )  # fmt: skip
    assert [one or "-" for one in held] == found.split()


def test_named_columns_win():
    """Columns named by an option take precedence over the usual names."""
    names = ["ts", "when", "user", "who", "tokens", "cost"]
    columns = find_columns(names, Choice(time="when", user="who", total="cost"))
    assert (columns.time, columns.user, columns.total) == ("when", "who", "cost")


@pytest.mark.parametrize(
    ("names", "choice", "words"),
    [
        (["user", "tokens"], Choice(), "no time column found; it has user, tokens"),
        (["ts", "user"], Choice(), "no token column found"),
        (["ts", "tokens"], Choice(user="who"), "no column 'who'"),
        ([], Choice(), "it has no columns"),
    ],
)
def test_missing_columns(names, choice, words):
    """The error lists the columns that exist."""
    with pytest.raises(InputError, match=words):
        find_columns(names, choice)
