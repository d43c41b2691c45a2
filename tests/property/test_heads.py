"""The cache of heads gives the same result as the parser, for any head."""

from __future__ import annotations

import pytest

from gateway.http.head import WireError, parse_request_head
from gateway.http.heads import HeadCache
from tests.corpus.malformed import CASES
from tests.corpus.wellformed import VALID

LINES = (b"traceparent: 00-1-2-01", b"X-Request-Id: abc", b"baggage: a=b")


def heads() -> list[bytes]:
    """Every complete head of the corpus."""
    raws = [case.raw for case in CASES] + [case.raw for case in VALID]
    found = (raw[: raw.index(b"\r\n\r\n") + 4] for raw in raws if b"\r\n\r\n" in raw)
    return sorted(set(found))


def verdict(parse, raw: bytes) -> object:
    """Status of the refusal, or the parsed head."""
    try:
        return parse(raw)
    except WireError as error:
        return error.status


@pytest.mark.parametrize("line", [b"", *LINES], ids=repr)
def test_cached_and_parsed_heads_agree(line):
    """With a tracing line at any place, refusals, framing and fields are the same."""
    cache = HeadCache(100, 16_384)
    for raw in heads():
        lines = raw.split(b"\r\n")
        for place in range(1, min(len(lines) - 1, 6)):
            own = b"\r\n".join([*lines[:place], line, *lines[place:]]) if line else raw
            expected = verdict(parse_request_head, own)
            for _ in range(2):
                found = verdict(cache.parse, own)
                if isinstance(expected, int) or isinstance(found, int):
                    assert found == expected, own
                    continue
                cached, separate = found
                sent = cached.head.forward + separate.lines
                assert sorted(sent.split(b"\r\n")) == sorted(
                    expected.forward.split(b"\r\n")
                )
                assert separate.length == expected.content_length
                assert cached.head.credentials == expected.credentials
                assert cached.head.target == expected.target
                ids = {
                    separate.request_id,
                    cached.head.fields.get(b"x-request-id", b""),
                }
                assert expected.fields.get(b"x-request-id", b"") in ids
