"""The commands, run in this process."""

from __future__ import annotations

import io
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest

from gateway.commands import cli
from gateway.commands.cli import run


class Admin(BaseHTTPRequestHandler):
    """A small admin API that records its requests."""

    asked: ClassVar[list[tuple[str, str, str | None, bytes]]] = []
    answers: ClassVar[list[tuple[int, object]]] = []

    def answer(self):
        """Record the request and send the next scripted answer."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.asked.append(
            (self.command, self.path, self.headers.get("Authorization"), body)
        )
        status, content = self.answers.pop(0) if self.answers else (200, {})
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_DELETE = answer  # noqa: N815

    def log_message(self, *args):
        """Write nothing to standard error."""


@pytest.fixture(name="admin")
def _admin():
    """The address of a scripted admin API."""
    Admin.asked, Admin.answers = [], []
    server = HTTPServer(("127.0.0.1", 0), Admin)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(name="became")
def _became(monkeypatch):
    """The arguments of ``execve``, with which ``serve`` would replace this process."""
    calls = []
    monkeypatch.setattr("os.execve", lambda *args: calls.append(args))
    return calls


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path, monkeypatch):
    """Run in a directory without a configuration file."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("tokens", "hint"),
    [
        (["frobnicate"], "Unknown command"),
        (["serve", "--upstrem", "x"], "--upstream"),
        (["serve", "--mode", "shadow"], "enforce"),
        (["serve", "extra"], "extra"),
        (["check", "--config"], "--config"),
        (["blocks", "add", "planet", "x"], "client_ip"),
        (["blocks", "add", "user"], "ID"),
        (["blocks", "add", "user", "x", "--ttl", "soon"], "not a duration"),
        (["blocks", "add", "user", "x", "--ttl", "0s"], "nothing"),
        (["serve"], "--upstream URL"),
        (["incidents", "list", "--admin", "http://[::1"], "host:port"),
        (["alerts", "test", "hook", "--admin", "127.0.0.1:999999"], "host:port"),
        (["top", "--admin", "ftp://x"], "host:port"),
        (["serve", "--upstream", "ftp://x"], "https://HOST"),
        (["check", "--config", "none.toml"], "cannot read"),
    ],
)
def test_bad_usage_is_exit_2(tokens, hint, capsys):
    """Usage and configuration errors name the allowed values on stderr, with exit code 2."""
    assert run(tokens) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tidegate: ")
    assert hint in err


@pytest.mark.parametrize("tokens", [["--help"], ["serve", "--help"], [], ["keys"]])
def test_help(tokens, capsys):
    """Help goes to stdout, with exit code 0."""
    assert run(tokens) == 0
    assert "Usage: tidegate" in capsys.readouterr().out


def test_version(capsys):
    """The version is that of the package."""
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"{cli.__version__}\n"


def test_serve_hands_over(became):
    """serve validates, then becomes the supervisor with flags as overrides."""
    run(["serve", "--upstream", "http://x", "--workers", "2", "--listen", ":0"])
    ((program, argv, environ),) = became
    assert argv == [program, "-m", "gateway.serve.supervisor"]
    assert json.loads(environ["TIDEGATE_SPEC"]) == {
        "config": None,
        "overrides": {
            "upstream": "http://x",
            "server.listen": ":0",
            "server.workers": "2",
        },
    }


def test_serve_names_the_file_absolutely(became, tmp_path):
    """The supervisor gets the file's absolute path."""
    (tmp_path / "tidegate.toml").write_text('[[upstream]]\nurl = "http://x"\n')
    run(["serve"])
    spec = json.loads(became[0][2]["TIDEGATE_SPEC"])
    assert spec == {"config": str(tmp_path / "tidegate.toml"), "overrides": {}}


def test_new_keys_are_long_and_match_their_hash(capsys, monkeypatch):
    """The second line is the hash of the first, as ``keys hash`` makes it."""
    assert run(["keys", "new"]) == 0
    key, digest = capsys.readouterr().out.split()
    assert len(key) > 40
    assert re.fullmatch("sha256:[0-9a-f]{64}", digest)
    monkeypatch.setattr("sys.stdin", io.StringIO(key + "\r\n"))
    assert run(["keys", "hash"]) == 0
    assert capsys.readouterr().out == f"{digest}\n"


def test_hash_of_nothing_is_refused(capsys, monkeypatch):
    """An empty key is refused: its hash would admit everyone."""
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert run(["keys", "hash"]) == 2
    assert "no key" in capsys.readouterr().err


def test_check_prints_the_effective_policy(capsys, tmp_path):
    """Every tenant's limits are printed with the line that states them."""
    (tmp_path / "gate.toml").write_text(
        '[[upstream]]\nurl = "http://x"\napi_key = "plain"\n[policy.default]\n'
        'limits = [{ per = "user", usd = 2.5, window = "day" }]\n'
        'caps = { max_body = "1MiB", clamp = true }\n'
        '[[policy.default.model]]\nmatch = "m*"\ncaps = { n = 1 }\n'
        'limits = [{ per = "model", requests = 1_000, window = "1m" }]\n'
        '[[tenant]]\nname = "acme"\ncidrs = ["10.0.0.0/8"]\njwt.jwks_file = "k"\n'
        "[policy.anonymous]\nprices.m = { input = 1, output = 2 }\n"
    )
    assert run(["check", "--config", "gate.toml"]) == 0
    out, err = capsys.readouterr()
    lines = [re.sub(" {2,}", "|", line.strip()) for line in out.splitlines()]
    assert "tenant acme, policy default" in lines
    assert f"jwt|keys of {tmp_path}/k|gate.toml:14" in lines
    assert "cidrs|10.0.0.0/8|gate.toml:13" in lines
    assert "limits|2.5 usd a day per user|gate.toml:5" in lines
    assert "limits|1,000 requests in 1m per model of m*|gate.toml:10" in lines
    assert 'caps|max_body = "1MiB", clamp = true|gate.toml:6' in lines
    assert "prices|m = { input = 1.0, output = 2.0 }|gate.toml:16" in lines
    assert "gate.toml is valid" in lines
    assert "warning: gate.toml:3: upstream[0].api_key" in err


@pytest.mark.parametrize("port", ["server", "admin"])
def test_check_reads_certificates(port, capsys, tmp_path):
    """A port whose certificate cannot be used could not start."""
    (tmp_path / "gate.toml").write_text(
        f'[[upstream]]\nurl = "http://x"\n[{port}.tls]\ncert = "c"\nkey = "k"\n'
    )
    assert run(["check", "--config", "gate.toml"]) == 2
    err = capsys.readouterr().err
    assert f"{port}.tls: cannot use {tmp_path}/c" in err
    assert "No such file" in err


def test_check_says_which_variable(capsys, monkeypatch):
    """Values from the environment name their variable, limits too."""
    limits = '[{per="user", concurrent=5}]'
    monkeypatch.setenv("TIDEGATE_POLICY__DEFAULT__LIMITS", limits)
    monkeypatch.setenv("TIDEGATE_UPSTREAM__0__URL", "http://x")
    assert run(["check"]) == 0
    out = capsys.readouterr().out
    assert re.search("5 concurrent per user +TIDEGATE_POLICY__DEFAULT__LIMITS", out)
    assert "the configuration is valid" in out


def test_check_draws_tables_on_a_terminal(capsys, monkeypatch):
    """On a terminal the tables have frames."""
    monkeypatch.setenv("TIDEGATE_UPSTREAM__0__URL", "http://x")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert run(["check"]) == 0
    assert "│" in capsys.readouterr().out


def test_blocks_list(admin, capsys, monkeypatch):
    """All pages of the list are fetched, with the token of the environment."""
    monkeypatch.setenv("TIDEGATE_ADMIN_TOKEN", "t")
    block = {"kind": "user", "id": "u", "tenant": None, "until": 5.0, "reason": "r"}
    Admin.answers = [
        (200, {"items": [block], "next": "2"}),
        (200, {"items": [block], "next": None}),
    ]
    assert run(["blocks", "list", "--admin", admin]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["kind", "id", "tenant", "until", "reason"]
    assert [line.split() for line in lines[1:]] == [["user", "u", "-", "5.0", "r"]] * 2
    assert [asked[1:3] for asked in Admin.asked] == [
        ("/api/v1/blocks", "Bearer t"),
        ("/api/v1/blocks?cursor=2", "Bearer t"),
    ]


def test_blocks_list_as_json(admin, capsys):
    """--json prints the list in the shape of the API."""
    Admin.answers = [(200, {"items": [], "next": None})]
    assert run(["blocks", "list", "--json", "--admin", admin]) == 0
    assert json.loads(capsys.readouterr().out) == {"items": [], "next": None}


def test_no_blocks(admin, capsys):
    """An empty block list prints a message."""
    Admin.answers = [(200, {"items": [], "next": None})]
    assert run(["blocks", "list", "--admin", admin]) == 0
    assert capsys.readouterr().out == "no blocks\n"


def test_blocks_add_and_remove(admin):
    """Ids are percent-encoded in the path, fields sent as JSON."""
    where = ["--admin", admin, "--token", "t", "--tenant", "acme"]
    network = ["network", "10.0.0.0/8"]
    assert (
        run(["blocks", "add", *network, "--ttl", "10m", "--reason", "x", *where]) == 0
    )
    assert run(["blocks", "remove", *network, *where]) == 0
    (method, path, token, body), removed = Admin.asked
    assert (method, path, token) == ("POST", "/api/v1/blocks", "Bearer t")
    assert json.loads(body) == {
        "kind": "network",
        "id": "10.0.0.0/8",
        "tenant": "acme",
        "ttl": "10m",
        "reason": "x",
    }
    assert removed[:2] == (
        "DELETE",
        "/api/v1/blocks/network/10.0.0.0%2F8?tenant=acme",
    )


@pytest.mark.parametrize(
    ("status", "content", "code", "hint"),
    [
        (401, {"error": "no token"}, 1, "--token"),
        (403, {}, 1, "not allowed"),
        (400, {"error": {"message": "bad id"}}, 2, "bad id"),
        (404, {"error": "not blocked"}, 2, "not blocked"),
        (500, "x", 1, "answered 500"),
    ],
)
def test_refusals_of_the_api(admin, capsys, status, content, code, hint):
    """The error of the API is printed; the exit code tells usage from failure."""
    Admin.answers = [(status, content)]
    assert run(["blocks", "remove", "user", "u", "--admin", admin]) == code
    assert hint in capsys.readouterr().err


def test_no_gateway_is_exit_1(free_port, capsys):
    """An unreachable gateway is a failure (1), not bad usage (2)."""
    assert run(["blocks", "list", "--admin", f"127.0.0.1:{free_port()}"]) == 1
    assert "cannot reach" in capsys.readouterr().err


def test_blocks_find_the_gateway_in_the_file(admin, tmp_path, capsys):
    """Without --admin the file's admin address and token are used."""
    (tmp_path / "tidegate.toml").write_text(
        f'[[upstream]]\nurl = "http://x"\n[admin]\nlisten = "{admin}"\ntoken = "f"\n'
    )
    Admin.answers = [(200, {"items": [], "next": None})]
    assert run(["blocks", "list"]) == 0
    assert Admin.asked[0][2] == "Bearer f"


def test_ids_are_one_segment_of_a_path(admin, capsys):
    """Ids with slashes, spaces or question marks are percent-encoded."""
    assert run(["incidents", "ack", "a/b c?d", "--admin", admin]) == 0
    Admin.answers = [(202, {"resent": 3})]
    assert run(["alerts", "resend", "my/hook", "--admin", admin]) == 0
    assert "3" in capsys.readouterr().out
    assert [path for _, path, _, _ in Admin.asked] == [
        "/api/v1/incidents/a%2Fb%20c%3Fd/acknowledge",
        "/api/v1/alerts/my%2Fhook/resend",
    ]


@pytest.mark.parametrize("command", ["top", "tail"])
def test_a_stream_that_ends_is_a_failure(command, admin, capsys):
    """The end of the stream is an error with exit code 1."""
    assert run([command, "--admin", admin]) == 1
    assert "ended the stream" in capsys.readouterr().err
