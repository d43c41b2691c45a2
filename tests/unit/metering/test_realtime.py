"""The usage of realtime sessions."""

import json

import pytest

from gateway.core.model import Usage
from gateway.metering.frames import BINARY, CLOSE, PING, TEXT
from gateway.metering.realtime import ClientMessage, RealtimeMeter, sum_usage
from tests.frames import frame

MASK = b"abcd"


def client(payload: bytes, opcode: int = TEXT, *, final: bool = True) -> bytes:
    return frame(payload, opcode, final=final, mask=MASK)


def sent(meter: RealtimeMeter, data: bytes) -> list[ClientMessage]:
    """Read and pass on what a client sends."""
    found = list(meter.client_messages(data))
    for message in found:
        event = message.event
        asks = event is not None and meter.asks(event, strict=True)
        meter.pass_on(event, asks=asks)
    return found


def done(prompt: int, completion: int, cached: int = 0, **more) -> bytes:
    usage = {
        "total_tokens": prompt + completion,
        "input_tokens": prompt,
        "output_tokens": completion,
        "input_token_details": {"cached_tokens": cached},
    }
    response = {**more, "usage": usage}
    return json.dumps({"type": "response.done", "response": response}).encode()


def test_session():
    """The usage of every response is found and summed; client events are counted."""
    meter = RealtimeMeter()
    assert len(sent(meter, client(b"{}") + client(b"", PING))) == 2
    data = frame(b"{}") + frame(b"x", BINARY) + frame(done(10, 5)) + frame(done(20, 1))
    found = meter.feed_upstream(data)
    assert [usage.total for usage in found] == [15, 21]
    assert meter.total == Usage(30, 6, 36, source="upstream")
    assert meter.between_messages
    assert (meter.skipped, meter.answers) == (0, 0)
    assert (meter.responses, meter.client_events, meter.lost) == (2, 1, False)


def test_unreadable_directions_are_lost():
    """An unreadable direction is reported as lost and passes on; the other one goes on."""
    meter = RealtimeMeter()
    assert sent(meter, b"\xff\xff") == [ClientMessage(b"\xff\xff")]
    assert sent(meter, client(b"{}")) == [ClientMessage(client(b"{}"))]
    assert meter.lost
    assert (meter.frames, meter.stopped, meter.skipped_client) == (0, False, 0)
    assert len(meter.feed_upstream(frame(done(1, 1)))) == 1
    assert meter.feed_upstream(b"\xff\xff") == []
    assert meter.feed_upstream(frame(done(1, 1))) == []


def test_unmasked_frames_end_the_reading():
    """Nothing of them is passed on."""
    meter = RealtimeMeter()
    assert sent(meter, frame(b"{}")) == []
    assert meter.unmasked
    assert meter.lost


def test_messages_of_the_client():
    """Control frames and empty messages say nothing; other opcodes are not read."""
    meter = RealtimeMeter(max_client=100)
    found = sent(
        meter,
        client(b"", PING) + client(b"") + client(b"{}", 3) + client(b"x" * 200),
    )
    assert [message.control for message in found] == [True, False, False, False]
    assert {message.event for message in found} == {None}
    assert (meter.client_events, meter.skipped, meter.skipped_client) == (1, 1, 1)


CREATE = client(b'{"type":"response.create"}')


def test_an_answer_under_way():
    """From its request or its first event to its usage an answer is under way."""
    meter = RealtimeMeter()
    found = list(meter.client_messages(CREATE))
    assert meter.answers == 0  # not passed on yet
    meter.pass_on(found[0].event, asks=True)
    assert (meter.asked, meter.running) == (1, 0)
    meter.feed_upstream(frame(b'{"type":"rate_limits.updated"}') + frame(b"x"))
    assert meter.answers == 1
    meter.feed_upstream(frame(b'{"type":"response.created"}'))
    assert (meter.asked, meter.running) == (0, 1)
    meter.feed_upstream(frame(done(1, 1)))
    assert meter.answers == 0
    meter.feed_upstream(frame(b'{"type":"response.created"}') + frame(b"", CLOSE))
    assert meter.answers == 1
    assert meter.begun


def test_several_answers_at_a_time():
    """Each one is under way until its own end."""
    meter = RealtimeMeter()
    sent(meter, CREATE * 2)
    meter.feed_upstream(frame(b'{"type":"response.created"}') * 2)
    meter.feed_upstream(frame(done(1, 1)))
    assert (meter.answers, meter.running) == (1, 1)
    assert meter.give_up() == 1
    assert meter.answers == 0


def test_an_upstream_that_names_no_beginnings():
    """Its first end leaves none under way."""
    meter = RealtimeMeter()
    sent(meter, CREATE * 2)
    assert meter.answers == 2
    meter.feed_upstream(frame(done(1, 1)))
    assert meter.answers == 0


def test_an_answer_that_goes_on_has_begun():
    """Its beginning may have been missed."""
    meter = RealtimeMeter()
    meter.feed_upstream(frame(b'{"type":"response.output_text.delta"}') * 2)
    assert meter.running == 1


def test_an_error_does_not_end_an_answer_that_has_begun():
    """It refuses a message of the client, not what runs."""
    meter = RealtimeMeter()
    sent(meter, CREATE)
    meter.feed_upstream(frame(b'{"type":"response.created"}'))
    sent(meter, client(b'{"type":"nonsense"}'))
    meter.feed_upstream(frame(b'{"type":"error"}'))
    assert meter.answers == 1
    meter.feed_upstream(frame(b'{"type":"response.cancelled"}'))
    assert meter.answers == 0


def test_an_error_may_refuse_an_answer():
    """Certainly, if the request was all that it could refuse; else only perhaps."""
    meter = RealtimeMeter()
    sent(meter, CREATE)
    meter.feed_upstream(frame(b'{"type":"error"}'))
    assert (meter.answers, meter.refused) == (0, False)
    sent(meter, CREATE + client(b'{"type":"nonsense"}'))
    meter.feed_upstream(frame(b'{"type":"error"}'))
    assert (meter.answers, meter.refused) == (1, True)
    assert meter.give_up() == 0
    sent(meter, CREATE + client(b'{"type":"nonsense"}'))
    meter.feed_upstream(frame(b'{"type":"error","error":{"code":"%b"}}' % ACTIVE))
    assert (meter.answers, meter.refused) == (0, False)


ACTIVE = b"conversation_already_has_active_response"


def test_turns_of_gemini():
    """A turn that is complete has its usage still to come; calls wait for replies."""
    meter = RealtimeMeter()
    sent(meter, client(b'{"clientContent":{"turnComplete":true}}'))
    assert meter.asked == 1
    meter.feed_upstream(frame(b'{"serverContent":{"modelTurn":{"parts":[]}}}', BINARY))
    assert (meter.asked, meter.running) == (0, 1)
    meter.feed_upstream(frame(b'{"serverContent":{"turnComplete":true}}', BINARY))
    assert (meter.running, meter.faded) == (1, True)
    usage = b'{"usageMetadata":{"promptTokenCount":1,"totalTokenCount":3}}'
    assert len(meter.feed_upstream(frame(usage, BINARY))) == 1
    assert (meter.running, meter.faded) == (0, False)
    meter.feed_upstream(frame(b'{"toolCall":{"functionCalls":[{},{}]}}', BINARY))
    reply = client(b'{"toolResponse":{}}')
    assert meter.running == 1
    sent(meter, reply * 2)  # the answer that called goes on
    assert (meter.asked, meter.running) == (0, 1)
    sent(meter, reply)
    assert meter.asked == 1


def test_what_is_not_known_may_ask():
    """Only where answers run one at a time."""
    meter = RealtimeMeter()
    event = next(meter.client_messages(client(b"{}"))).event
    assert event is not None
    assert meter.asks(event, strict=True)
    assert not meter.asks(event, strict=False)


def test_answers_without_usage():
    """A billed end that states none is reported as such."""
    meter = RealtimeMeter()
    found = meter.feed_upstream(frame(b'{"type":"response.completed","response":{}}'))
    assert found == [None]
    assert meter.responses == 0
    free = b'{"type":"response.done","response":{"status":"cancelled"}}'
    assert meter.feed_upstream(frame(free)) == []


def large(head: bytes, tail: bytes) -> bytes:
    return frame(head + b'"pad":"' + b"x" * 300_000 + b'",' + tail)


USAGE = b'"usage":{"input_tokens":10,"output_tokens":20,"total_tokens":30}}}'


@pytest.mark.parametrize(
    ("head", "tail", "totals", "answers", "skipped"),
    [
        (b'{"type":"response.completed","response":{', USAGE, [30], 0, 0),
        (b'{"type":"response.completed","response":{', b'"a":1}}', [None], 0, 0),
        (b'{"type":"response.failed","response":{', b'"a":1}}', [], 0, 0),
        (b'{"type":"response.output_item.done","item":{', b'"a":1}}', [], 1, 0),
        (b'{"type":"session.updated","session":{', b'"a":1}}', [], 1, 0),
        (b'{"response":{', USAGE[:-1] + b',"type":"response.done"}', [30], 0, 0),
        (b'{"serverContent":{', USAGE, [30], 0, 0),
        (b'{"serverContent":{', b'"a":1}}', [], 1, 1),
    ],
)
def test_large_events_are_read_at_their_ends(head, tail, totals, answers, skipped):
    """An answer is settled by its last event, however large that is."""
    meter = RealtimeMeter(100_000)
    sent(meter, CREATE)
    meter.feed_upstream(frame(b'{"type":"response.created"}'))
    found = meter.feed_upstream(large(head, tail))
    assert [usage if usage is None else usage.total for usage in found] == totals
    assert (meter.answers, meter.skipped) == (answers, skipped)


def test_models_of_a_session():
    """The model that the upstream states is kept apart from the client's."""
    meter = RealtimeMeter()
    sent(meter, client(b'{"setup":{"model":"a"}}'))
    meter.feed_upstream(frame(b'{"session":{"model":"b"}}') + frame(b"{}"))
    assert (meter.asked_model, meter.model) == ("a", "b")


def test_between_messages():
    """No message is inserted into another one, nor into unreadable bytes."""
    meter = RealtimeMeter()
    meter.feed_upstream(frame(b"abc")[:2])
    assert not meter.between_messages
    meter.feed_upstream(b"abc" + frame(b"x", final=False))
    assert not meter.between_messages
    meter.feed_upstream(b"\xff\xff")
    assert not meter.between_messages
    assert meter.skipped == 0


def test_sums_of_answers():
    """Units and prices of a session's answers add up; the last names stay."""
    one = Usage(1, 2, 3, units=(("input_audio_tokens", 1),), model="a", cost_usd=0.5)
    other = Usage(
        10, 20, 30, units=(("input_audio_tokens", 4), ("web_searches", 1)), tier="flex"
    )
    total = sum_usage(sum_usage(Usage(), one), other)
    assert (total.prompt, total.completion, total.total) == (11, 22, 33)
    assert dict(total.units) == {"input_audio_tokens": 5, "web_searches": 1}
    assert (total.model, total.tier, total.cost_usd) == ("a", "flex", 0.5)
    assert sum_usage(Usage(), Usage()).cost_usd is None
