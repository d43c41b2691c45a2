"""Records for InfluxDB: lines, batches, and an unreachable server."""

from __future__ import annotations

import asyncio
import gzip
import re
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.structs import InfluxTable
from gateway.config.values import Secret, Url
from gateway.core.model import RequestRecord
from gateway.sinks import influx
from gateway.sinks.influx import InfluxSink, line_of, write_url

SOME = RequestRecord(
    1_800_000_000.123456, "req-1", "acme", "alice", "203.0.113.9", "POST",
    "/v1/chat/completions", "chat.completions", "gpt-4o", True, 200, 10, 20, 30, 1, 2,
    "upstream", 0.00025, 120.5, 30.25, 0.4, "allow", None, 0.0, None, (),
    "e6b81f0881a982cb", "ok",
)  # fmt: skip


def split_line(line, mark):
    """Split as InfluxDB does: not at escaped marks or within a quoted field value."""
    parts, quoted, escaped = [""], False, False
    for place, letter in enumerate(line):
        opens = line[place - 1] == "=" and line[place - 2] != "\\"
        if letter == '"' and not escaped and (quoted or opens):
            quoted = not quoted
        if letter == mark and not quoted and not escaped:
            parts.append("")
        else:
            parts[-1] += letter
        escaped = letter == "\\" and not (escaped and quoted)
    return parts


PLAIN_FIELDS = split_line(split_line(line_of(SOME, 0, "m"), " ")[1], ",")


def record(**other):
    values = {name: getattr(SOME, name) for name in SOME.__struct_fields__}
    return RequestRecord(**values | other)


class Receiver:
    """A write API that answers with the given statuses and keeps the lines."""

    def __init__(self) -> None:
        self.status: list[int] = []  # of the next answers; 204 after them
        self.lines: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.calls = 0

    async def handle(self, request):
        body = await request.read()  # aiohttp decompresses it
        self.calls += 1
        status = self.status.pop(0) if self.status else 204
        self.headers.append(dict(request.headers))
        if status == 204:
            self.lines += body.decode().split("\n")
        return web.Response(status=status, text="" if status == 204 else "said why")


@asynccontextmanager
async def receiver():
    box = Receiver()
    app = web.Application()
    app.router.add_post("/{tail:.*}", box.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield box, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def running(url, **options):
    sink = InfluxSink(
        InfluxTable(url=Url(url), bucket="llm"), **{"backoff_s": (0.01,)} | options
    )
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(sink.run())
        try:
            yield sink
        finally:
            task.cancel()
    await sink.close()


async def until(what):
    async with asyncio.timeout(60):
        while not what():  # noqa: ASYNC110 - a real socket answers
            await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """Flush batches after 10 ms instead of a second."""
    monkeypatch.setattr(influx, "FLUSH_S", 0.01)


def test_a_line_has_bounded_tags_and_the_rest_as_fields():
    """Tags have bounded values; user and address are fields, so that clients add no
    series.
    """
    tags, _, rest = line_of(SOME, 7, "gpt-4o").partition(" ")
    assert tags == (
        "tidegate_requests,tenant=acme,endpoint=chat.completions,model=gpt-4o,"
        "action=allow,outcome=ok,status_class=2xx"
    )
    fields, _, nanos = rest.rpartition(" ")
    assert nanos == "1800000000123456007"
    for field in (
        "prompt_tokens=10i",
        'user="alice"',
        'client_ip="203.0.113.9"',
        "stream=t",
    ):
        assert field in fields.split(",")
    assert "e6b81f" not in fields, "no trace of the prompt"


def test_missing_values_have_no_field():
    """A record without first byte, class or limit has no such field."""
    line = line_of(record(ttfb_ms=None), 0, "other")
    assert not {"ttfb_ms", "class", "limit"} & {
        part.partition("=")[0] for part in line.split(",")
    }
    full = line_of(record(cls="ddos", limit="user.tokens.1m"), 0, "other")
    assert full.count('class="ddos"') == full.count('limit="user.tokens.1m"') == 1


@given(st.text(max_size=40))
def test_no_text_breaks_a_line(text):
    """Any text in user, tenant and model gives one line with all tags and fields."""
    line = line_of(record(user=text, tenant=text, request_id=text), 0, text)
    assert "\n" not in line
    tags, rest = re.split(r"(?<!\\) ", line, maxsplit=1)
    found = re.split(r"(?<!\\),", tags)
    assert len(found) == 7
    assert all(tag.partition("=")[2] for tag in found[1:])
    fields, _nanos = split_line(rest, " ")
    assert len(split_line(fields, ",")) == len(PLAIN_FIELDS)


@pytest.mark.parametrize(
    ("table", "url"),
    [
        ({}, "http://i:8086/write?db=a+b&precision=ns"),
        (
            {"org": "acme"},
            "http://i:8086/api/v2/write?bucket=a+b&precision=ns&org=acme",
        ),
        (
            {"token": Secret("t")},
            "http://i:8086/api/v2/write?bucket=a+b&precision=ns",
        ),
    ],
)
def test_the_version_is_chosen_by_what_is_configured(table, url):
    """With an organisation or a token the URL is that of API version 2, else of version
    1.
    """
    assert (
        write_url(InfluxTable(url=Url("http://i:8086/"), bucket="a b", **table)) == url
    )


async def test_records_arrive_packed_and_in_order():
    """A batch is one gzip body with one line a record, in order."""
    async with receiver() as (box, url), running(url) as sink:
        sink.write([record(request_id=f"r{n}") for n in range(3)])
        await until(lambda: sink.written == 3)
    assert ["r0" in box.lines[0], "r2" in box.lines[2]] == [True, True]
    assert box.headers[0]["Content-Encoding"] == "gzip"
    assert sink.public() == {
        "written": 3,
        "dropped": 0,
        "waiting": 0,
        "retries": 0,
        "error": "",
    }


async def test_the_token_is_sent_and_shown_nowhere():
    """The token is in the Authorization header and in no state or repr."""
    table = InfluxTable(url=Url("http://127.0.0.1:1"), bucket="b", token=Secret("hush"))
    async with receiver() as (box, url):
        sink = InfluxSink(
            InfluxTable(url=Url(url), bucket="b", token=Secret("hush")),
            model_label=lambda _model: "other",
        )
        sink.write([SOME])
        await sink.close()
        assert box.headers[0]["Authorization"] == "Token hush"
        assert "model=other" in box.lines[0]
    assert "hush" not in f"{sink.public()}{table}"


@pytest.mark.parametrize("status", [500, 503, 429, 401, 404, 302])
async def test_temporary_errors_are_retried(status):
    """After a temporary error the batch is sent again exactly once, and failure and
    recovery are reported.
    """
    told = []
    async with receiver() as (box, url), running(url, on_state=told.append) as sink:
        box.status = [status, status]
        sink.write([SOME])
        await until(lambda: sink.written == 1)
    assert (len(box.lines), sink.retries, sink.dropped) == (1, 2, 0)
    assert [bool(one) for one in told] == [True, False]
    assert str(status) in told[0]


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_permanent_errors_drop_the_batch(status):
    """A batch that the server rejects is dropped, and the next one is sent."""
    async with receiver() as (box, url), running(url) as sink:
        box.status = [status]
        sink.write([SOME])
        await until(lambda: sink.dropped == 1)
        sink.write([SOME])
        await until(lambda: sink.written == 1)
    assert sink.retries == 0


async def test_a_queue_that_is_full_loses_the_oldest():
    """A full queue drops its oldest records, counts them and never blocks."""
    sink = InfluxSink(InfluxTable(url=Url("http://127.0.0.1:1"), bucket="b"), queue=10)
    sink.write([record(request_id=f"r{n}") for n in range(25)])
    assert (sink.waiting, sink.dropped) == (10, 15)
    await sink.close()
    assert (sink.waiting, sink.dropped, sink.written) == (0, 25, 0)
    assert sink.error


async def test_a_queue_that_overflows_during_a_write_counts_once():
    """When the queue overflows during a write, each record counts once as written or
    dropped.
    """
    gate = asyncio.Event()
    async with receiver() as (box, _url):
        real = box.handle

        async def slow(request):
            await gate.wait()
            return await real(request)

        app = web.Application()
        app.router.add_post("/{tail:.*}", slow)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        there = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with running(there, queue=10) as sink:
            sink.write([SOME] * 10)
            await asyncio.sleep(0.05)
            sink.write([SOME] * 4)
            gate.set()
            await until(lambda: not sink.waiting)
        await runner.cleanup()
    assert sink.written + sink.dropped == 14
    assert sink.written == len(box.lines)


async def test_close_does_not_wait_for_a_silent_server(monkeypatch):
    """``close`` gives up a server that does not answer within ``CLOSE_S``."""
    monkeypatch.setattr(influx, "CLOSE_S", 0.05)

    async def silent(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sink = InfluxSink(InfluxTable(url=Url(f"http://127.0.0.1:{port}"), bucket="b"))
    sink.write([SOME])
    await sink.close()
    server.close()
    assert (sink.dropped, sink.written) == (1, 0)


def test_batches_are_small_when_packed():
    """gzip compresses a full batch to less than a tenth."""
    lines = "\n".join(line_of(SOME, n, "gpt-4o") for n in range(influx.BATCH))
    assert len(gzip.compress(lines.encode(), 1)) < len(lines) / 10
