"""Records to InfluxDB: line protocol over HTTP, in batches.

Records are encoded as lines at once, kept in a bounded queue, and sent by a task of their
own. When the queue is full the oldest lines are dropped and counted: a gap at the
beginning is better than a permanent lag.

One point per request, measurement ``tidegate_requests``. Tags are what dashboards group
by, with bounded values: tenant, endpoint, model (a priced or configured name, else
``other``), action, outcome, and class of the status. **User and address are fields:**
InfluxDB keeps a series in memory for each tag value, so a flood of unknown clients would
fill its memory; fields can be filtered by, but not grouped by. Prompts, fingerprints and
keys are never sent.
"""

from __future__ import annotations

import asyncio
import gzip
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from urllib.parse import urlencode

import aiohttp

from gateway.config.structs import InfluxTable
from gateway.core.model import RequestRecord

MEASUREMENT = "tidegate_requests"
# InfluxData recommends 5,000 lines per batch; a line has about 350 bytes.
BATCH = 5000
# About 40 MB of lines: ten seconds of 10,000 requests a second.
QUEUE = 100_000
# Longest time that lines wait for a full batch, seconds.
FLUSH_S = 1.0
# Limit of one request, seconds.
TIMEOUT_S = 10.0
BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 30.0)
# Longest time for the remaining lines when the gateway ends, seconds.
CLOSE_S = 3.0
# Statuses after which a retry cannot succeed: the batch is dropped and reported.
_PERMANENT = frozenset({400, 413, 422})
_ACCEPTED = frozenset({200, 204})

# Backslashes in tags are replaced: their escape rules are ambiguous in line protocol.
_TAG = str.maketrans(
    {",": "\\,", "=": "\\=", " ": "\\ ", "\n": "\\ ", "\r": "\\ ", "\\": "/"}
)
_TEXT = str.maketrans({'"': '\\"', "\\": "\\\\", "\n": " ", "\r": " "})


def line_of(r: RequestRecord, sequence: int, model: str) -> str:
    """A record as one line. ``sequence`` gives the last three digits of the nanoseconds,
    so that requests of the same microsecond stay separate points. ``model`` is the
    bounded name of the model.
    """
    tags = (
        f"tenant={_tag(r.tenant)},endpoint={_tag(r.endpoint)},model={_tag(model)},"
        f"action={r.action},outcome={r.outcome},status_class={r.status // 100}xx"
    )
    fields = (
        f"status={r.status}i,prompt_tokens={r.prompt_tokens}i,"
        f"completion_tokens={r.completion_tokens}i,total_tokens={r.total_tokens}i,"
        f"cached_tokens={r.cached_tokens}i,reasoning_tokens={r.reasoning_tokens}i,"
        f"usd={r.usd:.9f},duration_ms={r.duration_ms:.3f},"
        f"overhead_ms={r.overhead_ms:.4f},score={r.score:.2f},"
        f'user="{_text(r.user)}",client_ip="{_text(r.client_ip)}",'
        f'request_id="{_text(r.request_id)}",stream={"t" if r.stream else "f"}'
    )
    if r.ttfb_ms is not None:
        fields += f",ttfb_ms={r.ttfb_ms:.3f}"
    if r.cls:
        fields += f',class="{r.cls}"'
    if r.limit:
        fields += f',limit="{_text(r.limit)}"'
    nanos = round(r.ts * 1_000_000) * 1000 + sequence % 1000
    return f"{MEASUREMENT},{tags} {fields} {nanos}"


def _tag(value: str) -> str:
    return value.translate(_TAG) or "none"  # an empty value is a syntax error


def _text(value: str) -> str:
    return value.translate(_TEXT)


def write_url(table: InfluxTable) -> str:
    """URL for writes. With ``org`` or a token: the API of versions 2 and 3 (also in 1.8);
    without both: version 1.
    """
    base = table.url.rstrip("/")
    if table.org or table.token is not None:
        query = {"bucket": table.bucket, "precision": "ns"}
        query |= {"org": table.org} if table.org else {}
        return f"{base}/api/v2/write?{urlencode(query)}"
    return f"{base}/write?{urlencode({'db': table.bucket, 'precision': 'ns'})}"


class InfluxSink:
    """Queue of lines and their delivery. ``write`` neither blocks nor raises.

    ``model_label`` maps models to bounded tag values. ``on_state`` is called when sending
    starts to fail (error text) and when it works again (""). ``queue``: most lines in it.
    ``backoff_s``: pauses after the first, second, … failure; the last one repeats.
    """

    def __init__(
        self,
        table: InfluxTable,
        *,
        model_label: Callable[[str], str] = lambda model: model,
        on_state: Callable[[str], None] = lambda _problem: None,
        queue: int = QUEUE,
        backoff_s: Sequence[float] = BACKOFF_S,
    ) -> None:
        self._url = write_url(table)
        self._headers = {"Content-Encoding": "gzip"}
        if table.token is not None:
            self._headers["Authorization"] = f"Token {table.token.reveal()}"
        self.model_label = model_label
        """Maps a model to its bounded tag value."""
        self._on_state = on_state
        self._backoff_s = backoff_s
        self._capacity = queue
        self._queue: deque[str] = deque()
        self._session: aiohttp.ClientSession | None = None
        self._sequence = 0
        self.written = 0
        """Lines that InfluxDB accepted."""
        self.dropped = 0
        """Lines dropped: queue full, or rejected for good."""
        self.retries = 0
        """Batches sent again."""
        self.error = ""
        """Error of the last batch, "" if it was accepted."""

    @property
    def waiting(self) -> int:
        """Lines in the queue."""
        return len(self._queue)

    def write(self, records: Sequence[RequestRecord]) -> None:
        """Queue records; drops the oldest lines when the queue is full."""
        label, queue = self.model_label, self._queue
        for record in records:
            self._sequence += 1
            queue.append(line_of(record, self._sequence, label(record.model)))
        excess = len(queue) - self._capacity
        for _ in range(excess):
            queue.popleft()
        self.dropped += max(0, excess)

    async def run(self) -> None:
        """Send queued lines every second, or as soon as a batch is full, until cancelled."""
        failures = 0
        while True:
            sent = await self._send_batch() if self._queue else True
            failures = 0 if sent else failures + 1
            if failures:
                step = min(failures, len(self._backoff_s)) - 1
                await asyncio.sleep(self._backoff_s[step])
            elif len(self._queue) < BATCH:
                await asyncio.sleep(FLUSH_S)

    async def close(self) -> None:
        """Send the remaining lines for at most CLOSE_S; drop the rest."""
        try:
            async with asyncio.timeout(CLOSE_S):
                while self._queue and await self._send_batch():
                    pass
        except TimeoutError:
            self.error = self.error or "no time left to send the last records"
        self.dropped += len(self._queue)
        self._queue.clear()
        if self._session is not None:
            await self._session.close()

    def public(self) -> dict[str, object]:
        """State for the status page."""
        return {
            "written": self.written,
            "dropped": self.dropped,
            "waiting": self.waiting,
            "retries": self.retries,
            "error": self.error,
        }

    async def _send_batch(self) -> bool:
        """Send one batch. It leaves the queue once accepted or rejected for good."""
        batch = list(islice(self._queue, BATCH))
        dropped = self.dropped
        status, problem = await self._post("\n".join(batch).encode())
        if problem and status not in _PERMANENT:
            self.retries += 1
            self._state(problem)
            return False
        # The queue may have dropped its oldest lines meanwhile: lines of this batch.
        gone = min(len(batch), self.dropped - dropped)
        for _ in range(len(batch) - gone):
            self._queue.popleft()
        if problem:
            self.dropped += len(batch) - gone
        else:
            self.written += len(batch)
            self.dropped -= gone
        self._state(problem)
        return True

    async def _post(self, lines: bytes) -> tuple[int, str]:
        """Send lines, compressed. Status of the response (0: there was none) and error
        text ("" if accepted), with the beginning of the response's body.
        """
        body = await asyncio.to_thread(gzip.compress, lines, 1)
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(TIMEOUT_S)
            )
        try:
            async with self._session.post(
                self._url, data=body, headers=self._headers, allow_redirects=False
            ) as response:
                status = response.status
                if status in _ACCEPTED:
                    return status, ""
                text = (await response.content.read(500)).decode(errors="replace")
                return status, f"HTTP {status}: {text.strip()[:200]}"
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return 0, str(error) or type(error).__name__

    def _state(self, problem: str) -> None:
        was, self.error = self.error, problem
        if bool(was) != bool(problem):
            self._on_state(problem)
