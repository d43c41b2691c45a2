"""OpenAI requests."""

import pytest

from gateway.metering.dialects import find_endpoint
from gateway.metering.dialects.base import DialectError


def read(body: bytes, path: str = "/v1/chat/completions"):
    match = find_endpoint("POST", path)
    return match.dialect.read_request(match, body, "", "application/json")


def test_chat():
    """Model, cap, number of answers, user and size of a chat are read."""
    facts = read(
        b'{"model":"m","messages":[{"content":"hi"}],"max_tokens":9,"n":2,"user":"u",'
        b'"tools":[{}],"max_completion_tokens":12}'
    )
    assert (facts.model, facts.max_tokens, facts.n, facts.user) == ("m", 12, 2, "u")
    assert (facts.prompt_bytes, facts.stream, facts.usage_asked) == (22, False, True)


def test_model_of_a_deployment():
    """Azure's path names the model if the body does not."""
    path = "/openai/deployments/my%2Fgpt/chat/completions"
    assert read(b'{"messages":[]}', path).model == "my/gpt"


def test_no_cap():
    """-1 means no cap."""
    assert read(b'{"max_tokens":-1}').max_tokens is None
    assert read(b'{"max_tokens":7}').max_tokens == 7


@pytest.mark.parametrize(
    ("given", "user"),
    [
        (b'"user":"u","metadata":{"user_id":"m"}', "u"),
        (b'"metadata":{"user_id":"m"},"safety_identifier":"s"', "m"),
        (b'"metadata":{"user_id":3},"safety_identifier":"s"', "s"),
        (b'"metadata":{}', None),
    ],
)
def test_users(given, user):
    """The user is user, else metadata.user_id, else safety_identifier."""
    assert read(b"{%b}" % given).user == user
    assert read(b"{%b}" % given, "/v1/responses").user == user


@pytest.mark.parametrize(
    ("options", "asked", "given"),
    [
        (b"", False, False),
        (b',"stream_options":null', False, True),
        (b',"stream_options":{"include_usage":false}', False, True),
        (b',"stream_options":{"include_usage":"true"}', True, True),
        (b',"stream_options":{"include_usage":true}', True, True),
    ],
)
def test_asking_for_usage(options, asked, given):
    """Usage is asked for in a stream whose client did not; other bodies stay."""
    body = b'{"stream":true%b}' % options
    for path in ("/v1/chat/completions", "/v1/completions"):
        match = find_endpoint("POST", path)
        facts = read(body, path)
        assert (facts.usage_asked, facts.options_given) == (asked, given)
        spliced = match.dialect.ask_usage(body, facts)
        assert (spliced is None) is asked
        if spliced is not None:
            assert read(spliced, path).usage_asked


def test_odd_options_are_refused():
    """An include_usage that no server accepts is refused."""
    with pytest.raises(DialectError):
        read(b'{"stream":true,"stream_options":{"include_usage":"perhaps"}}')


def test_responses_are_never_asked():
    """Responses streams always end with their usage, so it is not asked for."""
    facts = read(b'{"stream":true,"input":"hello","instructions":"x"}', "/v1/responses")
    assert facts.usage_asked
    assert (facts.endpoint, facts.prompt_bytes) == ("responses", 10)
    dialect = find_endpoint("POST", "/v1/responses").dialect
    assert dialect.ask_usage(b"{}", facts) is None


def test_completions():
    """Token arrays are counted; best_of counts as n."""
    facts = read(b'{"prompt":[1,2,3],"n":2,"best_of":5}', "/v1/completions")
    assert (facts.prompt_tokens_known, facts.n) == (3, 5)


def test_moderations_are_free():
    """Moderations are read for their model but cost nothing."""
    facts = read(b'{"model":"omni-moderation-latest","input":"x"}', "/v1/moderations")
    assert (facts.billable, facts.model) == (False, "omni-moderation-latest")


@pytest.mark.parametrize(
    ("given", "tier"),
    [
        (b'"priority"', "priority"),
        (b'"\\u0070RIORITY"', "priority"),
        (b'"' + b"x" * 99 + b'"', "x" * 40),
        (b"null", ""),
        (b"7", ""),
        (b'"\\ud800"', ""),
    ],
)
def test_the_service_tier_is_read(given, tier):
    """The tier that a request asks for, however it is spelled; other values are none."""
    for path, start in (
        ("/v1/chat/completions", b'{"model":"m","messages":[]'),
        ("/v1/responses", b'{"model":"m","input":"x"'),
        ("/v1/messages", b'{"model":"m","messages":[],"max_tokens":1'),
    ):
        assert read(start + b',"service_tier":' + given + b"}", path).tier == tier
