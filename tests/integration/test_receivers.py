"""Mail through a real SMTP server, alerts into a real Alertmanager."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import ssl
import subprocess
import time
from email import message_from_bytes
from typing import Self

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult

from gateway.alerts import mail
from gateway.alerts.delivery import DeliveryWorker
from gateway.alerts.model import report_of
from gateway.alerts.receivers import Receiver, open_sender
from gateway.alerts.sqlite_outbox import SqliteOutbox
from gateway.detect.model import EvidenceWindow, Output, Ref, format_time
from tests.gateway_process import call, until
from tests.ports import free_port

PASSWORD = "correct horse"


def said(kind="incident.opened", **changes) -> Output:
    """An output of a detector."""
    now = format_time(time.time())
    fields = {
        "type": kind, "id": "inc_1", "ts": now, "severity": "warning",
        "cls": "cost_spike", "score": 4.5, "subject": Ref("user", "key_1"),
        "tenant": "acme", "action": "tag", "until": None, "observed": {},
        "expected": {}, "reasons": ("It costs.",), "window": EvidenceWindow(now, now),
    }  # fmt: skip
    return Output(**(fields | changes))


class Line:
    """A delivery worker, its outbox, and a clock that tests can advance."""

    def __init__(self, **receiver) -> None:
        self.ahead_s = 0.0
        self.outbox = SqliteOutbox()
        who = Receiver("r", allow_private=True, **receiver)
        self.sender = open_sender(who)
        self.delivery_worker = DeliveryWorker(
            who, self.outbox, self.sender, "me", clock=self.clock
        )

    def clock(self) -> float:
        return time.time() + self.ahead_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.sender.close()

    async def tell(self, *outputs: Output) -> None:
        for output in outputs:
            await self.outbox.report(report_of(output, "gw"), self.clock())
        while await self.delivery_worker.turn() == 0.0:
            pass


# -- SMTP --------------------------------------------------------------------------------


class Post:
    """A mail server with STARTTLS and one user; ``letters`` are those it took."""

    def __init__(self, authority: trustme.CA, *, starttls: bool = True) -> None:
        self.letters: list[bytes] = []
        self.encrypted: list[bool] = []
        self.password = PASSWORD
        self.answer = "250 OK"
        context = None
        if starttls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("localhost").configure_cert(context)
        post = self

        class Server(Controller):
            def factory(self) -> SMTP:
                return SMTP(
                    post,
                    hostname="localhost",
                    tls_context=context,
                    authenticator=post.check,
                    auth_required=starttls,
                )

        self._server = Server(
            self, hostname="127.0.0.1", port=free_port(), ready_timeout=60.0
        )
        self._server.start()
        self.port = self._server.port

    def check(self, _server, _session, _envelope, _mechanism, data) -> AuthResult:
        good = (data.login, data.password) == (b"pager", self.password.encode())
        return AuthResult(success=good, handled=False)

    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self, _server, session, envelope
    ) -> str:
        if self.answer.startswith("250"):
            self.letters.append(envelope.content)
            self.encrypted.append(session.ssl is not None)
        return self.answer

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture(name="authority")
def _authority(tmp_path, monkeypatch):
    authority = trustme.CA()
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    return authority


@pytest.fixture(name="post")
def _post(authority):
    post = Post(authority)
    yield post
    post.stop()


def mail_to(post: Post, user="pager@", **changes) -> Line:
    """A receiver on that server with retries after 5 s and 60 s."""
    fields = {
        "type": "email", "url": f"smtp://{user}localhost:{post.port}",
        "secrets": (PASSWORD,), "to": ("on-call@example.com",),
        "sender": "tidegate@example.com", "retries": (5.0, 60.0),
    }  # fmt: skip
    return Line(**(fields | changes))


async def test_letters_go_encrypted_and_make_one_thread(post):
    """An opening and its end are two mails with ids of their own."""
    line = mail_to(post)
    await line.tell(said(), said("incident.resolved"))
    first, last = map(message_from_bytes, post.letters)
    assert post.encrypted == [True, True]
    assert first["Subject"].startswith("[warning]")
    assert first["To"] == "on-call@example.com"
    assert first["References"] == last["References"]
    assert first["Message-ID"] != last["Message-ID"]
    assert "It costs." in first.get_payload(decode=True).decode()


async def test_a_refused_login_loses_nothing(post):
    """A wrong password is a failure; with the right one the mail is sent under its id."""
    post.password = "another"
    line = mail_to(post)
    await line.tell(said())
    (waiting,) = await line.outbox.listed("r", "pending", 9)
    assert (waiting.attempts, waiting.error) == (1, "mail: SMTPAuthenticationError")
    assert post.letters == []
    post.password, line.ahead_s = PASSWORD, 10.0
    await line.tell()
    (letter,) = map(message_from_bytes, post.letters)
    assert waiting.id in letter["Message-ID"]


async def test_a_password_is_never_sent_in_the_clear(authority):
    """Without STARTTLS or with an untrusted certificate nothing is sent."""
    plain = Post(authority, starttls=False)
    stranger = Post(trustme.CA())
    try:
        for post in (plain, stranger):
            line = mail_to(post)
            await line.tell(said())
            (waiting,) = await line.outbox.listed("r", "pending", 9)
            assert waiting.error.startswith("mail: S"), waiting.error
            assert post.letters == []
    finally:
        plain.stop()
        stranger.stop()


async def test_a_letter_that_is_never_taken_is_a_dead_letter(post):
    """A mail is dead after its last attempt and can be sent again by hand."""
    post.answer = "451 later"
    line = mail_to(post)
    for line.ahead_s in (0.0, 20.0, 200.0):
        await line.tell(*([said()] if not line.ahead_s else []))
    (dead,) = await line.outbox.listed("r", "dead", 9)
    assert (dead.attempts, dead.error) == (3, "mail: SMTPDataError")
    post.answer, line.ahead_s = "250 OK", 400.0
    assert await line.outbox.resend("r", [], line.clock()) == 1
    await line.tell()
    assert len(post.letters) == 1


async def test_a_mail_server_that_says_nothing_holds_nobody(monkeypatch):
    """The attempt ends in time, with its thread and connection."""
    monkeypatch.setattr(mail, "DELIVERY_S", 0.2)
    gone: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def listen(reader, writer):
        writer.write(b"220-wait\r\n")
        gone.set_result(await reader.read())
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        fields = {"type": "email", "to": ("a@b.c",), "sender": "t@b.c"}
        line = Line(url=f"smtp://127.0.0.1:{port}", **fields)
        await line.tell(said())
        async with asyncio.timeout(10):
            assert await gone == b""
    (waiting,) = await line.outbox.listed("r", "pending", 9)
    assert waiting.error == "mail: no answer within 0.2 s"


# -- Alertmanager ------------------------------------------------------------------------


@pytest.fixture(name="alertmanager", scope="module")
def _alertmanager(tmp_path_factory):
    binary = shutil.which("prometheus-alertmanager")
    if binary is None:
        pytest.skip("no prometheus-alertmanager on PATH")
    folder, address = tmp_path_factory.mktemp("am"), f"127.0.0.1:{free_port()}"
    file = folder / "alertmanager.yml"
    file.write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(
            [binary, f"--config.file={file}", f"--storage.path={folder}/s",
             f"--web.listen-address={address}", "--cluster.listen-address="],
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    url = f"http://{address}"
    try:
        until(lambda: is_ready(url), 60.0, "the Alertmanager")
        yield url
    finally:
        child.kill()
        child.wait()


def is_ready(url: str) -> bool:
    with contextlib.suppress(OSError):
        return call("GET", f"{url}/-/ready")[0] == 200
    return False


def firing(url: str) -> list[dict]:
    """The active alerts of the Alertmanager."""
    return json.loads(call("GET", f"{url}/api/v2/alerts")[2])


async def test_an_incident_is_active_in_the_alertmanager_until_it_is_over(alertmanager):
    """Opened, updated and resolved it stays one alert although its labels change."""
    async with Line(type="alertmanager", url=alertmanager) as line:
        await line.tell(said())
        (one,) = firing(alertmanager)
        assert one["status"]["state"] == "active"
        assert one["labels"]["severity"] == "warning"
        assert one["labels"]["tenant"] == "acme"
        id_ = one["labels"]["incident"]
        await line.tell(said("incident.updated", severity="critical"))
        (worse,) = firing(alertmanager)
        assert worse["labels"] == one["labels"] | {"severity": "critical"}
        assert worse["startsAt"] == one["startsAt"]
        await line.tell(said("incident.resolved", severity="critical"))
        assert firing(alertmanager) == []
        sent = await line.outbox.listed("r", "sent", 9)
        assert [letter.payload["id"] for letter in sent] == [id_] * 3


async def test_a_clock_that_lags_ends_an_alert_too(alertmanager):
    """An end stamped before the beginning, which Alertmanager refuses, still resolves the alert."""
    async with Line(type="alertmanager", url=alertmanager) as line:
        await line.tell(said())
        early = format_time(time.time() - 3600)
        await line.tell(said("incident.resolved", ts=early))
        assert firing(alertmanager) == []
        assert (await line.outbox.counts("r")).pending == 0
