"""Loading the configuration from file, environment and flags."""

from __future__ import annotations

import pytest

from gateway.config import ConfigError, load, load_config, resolve

UPSTREAM = '[[upstream]]\nurl = "http://llm:8000"\n'


@pytest.fixture(name="write")
def _write(tmp_path):
    """Write a file, to which relative paths refer, and return its path."""

    def write(text, name="gate.toml"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def problems(path=None, overrides=None, env=None):
    """Every problem as (line, key, message)."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides, env or {})
    return [(p.line, p.key, p.message) for p in caught.value.problems]


def test_upstream_alone_is_enough(tmp_path, monkeypatch):
    """With only a URL: tenant default, everyone admitted, no limits, observe."""
    monkeypatch.chdir(tmp_path)
    loaded = load(None, {"upstream": "https://api.openai.com"}, {})
    config = loaded.config
    assert "--mode enforce" in loaded.warnings[0].message
    tables = resolve(config)
    assert [t.name for t in tables.tenants] == ["default"]
    assert tables.tenants[0].policy.mode == "observe"
    assert tables.tenants[0].policy.limits == ()
    assert tables.tenants[0].policy.anomaly.enabled
    assert config.server.trusted_proxies == ()
    assert config.store.url == f"embedded:{tmp_path}/tidegate-data"


def test_mode_flag_acts_on_every_policy(write):
    """--mode overrides the mode of every policy."""
    text = UPSTREAM + '[policy.a]\nmode = "observe"\n[policy.default]\n'
    config = load_config(write(text), {"mode": "enforce"}, {})
    assert {p.mode for p in config.policies.values()} == {"enforce"}


def test_a_file_means_enforce(write):
    """With a file, policies enforce unless it states another mode."""
    tables = resolve(load_config(write(UPSTREAM), {}, {}))
    assert tables.tenants[0].policy.mode == "enforce"


def test_flags_over_environment_over_file(write):
    """The last of file, environment, flags that states a key wins."""
    path = write(UPSTREAM + '[server]\nlisten = "h:1"\nworkers = 2\nmax_headers = 7\n')
    env = {"TIDEGATE_SERVER__LISTEN": "h:2", "TIDEGATE_SERVER__WORKERS": "3"}
    loaded = load(path, {"server.listen": "h:3"}, env)
    server = loaded.config.server
    assert (server.listen, server.workers, server.max_headers) == ("h:3", 3, 7)
    assert loaded.places["server", "listen"] == "--listen"
    assert loaded.places["server", "workers"] == "TIDEGATE_SERVER__WORKERS"
    assert loaded.places["server", "max_headers"] == f"{path}:6"


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("SERVER__WORKERS", "auto", lambda c: c.server.workers == "auto"),
        ("SERVER__MAX_BODY", "1MiB", lambda c: c.server.max_body == 1 << 20),
        ("SERVER__HEAD_TIMEOUT", "250ms", lambda c: c.server.head_timeout == 0.25),
        ("SERVER__PROXY_PROTOCOL", "false", lambda c: not c.server.proxy_protocol),
        (
            "SERVER__TRUSTED_PROXIES",
            "10.0.0.0/8, ::1",
            lambda c: c.server.trusted_proxies == ("10.0.0.0/8", "::1"),
        ),
        (
            "POLICY__DEFAULT__LIMITS",
            '[{per="user", requests=5, window="1m"}]',
            lambda c: c.policies["default"].limits[0].requests == 5,
        ),
        ("UPSTREAM__0__WEBSOCKET", "true", lambda c: c.upstreams[0].websocket),
        ("UPSTREAM__1__URL", "http://b", lambda c: len(c.upstreams) == 2),
        ("ADMIN__TOKEN", "t", lambda c: c.admin.token.reveal() == "t"),
        ("POLICY__Strict__MODE", "observe", lambda c: c.policies["Strict"].mode),
    ],
)
def test_environment_reaches_every_kind_of_value(write, name, value, read):
    """Text from the environment is converted to the type of its key."""
    second = '[[upstream]]\nurl = "http://c"\nprefix = "/c"\n' if "1__" in name else ""
    path = write(UPSTREAM + "[policy.Strict]\n" + second)
    if second:
        value = "http://c2"
    assert read(load_config(path, {}, {f"TIDEGATE_{name}": value}))


def test_a_misspelt_environment_variable_is_an_error(write):
    """A variable that names no key is reported under its own name."""
    env = {"TIDEGATE_SERVR__LISTEN": "x", "TIDEGATE_ADMIN_TOKEN": "not a key"}
    with pytest.raises(ConfigError) as caught:
        load_config(write(UPSTREAM), {}, env)
    (problem,) = caught.value.problems
    assert problem.source == "TIDEGATE_SERVR__LISTEN"
    assert 'did you mean "server"' in problem.message


def test_an_environment_variable_below_a_value_is_an_error(write):
    """A variable that reaches into a plain value names no key."""
    env = {"TIDEGATE_SERVER__LISTEN__PORT": "1"}
    path = write(UPSTREAM + '[server]\nlisten = "a:1"\n')
    assert [p[2] for p in problems(path, env=env)] == [
        "is not a key of the configuration"
    ]


def test_an_upstream_number_that_skips_one_is_an_error(write):
    """Tables in a list are numbered without gaps."""
    env = {"TIDEGATE_UPSTREAM__5__URL": "http://x"}
    assert len(problems(write(UPSTREAM), env=env)) == 1


def test_upstream_flag_replaces_the_only_url(write):
    """--upstream keeps the other keys of the single upstream."""
    path = write(UPSTREAM + "websocket = true\n")
    config = load_config(path, {"upstream": "http://other"}, {})
    assert config.upstreams[0].url == "http://other"
    assert config.upstreams[0].websocket


def test_upstream_flag_beside_several_is_an_error(write):
    """With several upstreams, --upstream is refused."""
    text = UPSTREAM + UPSTREAM + 'prefix = "/b"\n'
    (problem,) = problems(write(text), {"upstream": "http://x"})
    assert "several upstreams" in problem[2]


def test_default_file_is_picked_up(write, tmp_path, monkeypatch):
    """Without --config, ./tidegate.toml is read if it exists."""
    write(UPSTREAM + '[server]\nlisten = "a:1"\n', "tidegate.toml")
    monkeypatch.chdir(tmp_path)
    assert load_config(None, {}, {}).server.listen == "a:1"


def test_text_replaces_the_file(tmp_path):
    """A worker reads the text that control validated, not the current file."""
    config = load_config(str(tmp_path / "gone.toml"), {}, {}, text=UPSTREAM)
    assert config.upstreams[0].url == "http://llm:8000"


def test_paths_start_from_the_file(write, tmp_path):
    """Relative paths in a file are relative to it."""
    text = UPSTREAM + 'ca_file = "ca.pem"\n[events]\nfile = "out/r.jsonl"\n'
    text += '[store]\nurl = "embedded:./d"\n'
    config = load_config(write(text), {}, {})
    assert config.upstreams[0].ca_file == f"{tmp_path}/ca.pem"
    assert config.events.file == f"{tmp_path}/out/r.jsonl"
    assert config.store.url == f"embedded:{tmp_path}/d"


def test_paths_of_flags_start_from_here(write, tmp_path, monkeypatch):
    """A relative path on the command line is relative to the working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    config = load_config(write(UPSTREAM), {"store.url": "embedded:"}, {})
    assert config.store.url == f"embedded:{tmp_path}/here/tidegate-data"


def test_secrets_from_environment_and_file(write, tmp_path):
    """Secrets are read at load, and their repr does not show them."""
    (tmp_path / "key").write_text("from-file\n")
    text = UPSTREAM + 'api_key = { file = "key" }\n[admin]\ntoken = { env = "T" }\n'
    loaded = load(write(text), {}, {"T": "from-env"})
    config = loaded.config
    assert config.upstreams[0].api_key.reveal() == "from-file"
    assert config.admin.token.reveal() == "from-env"
    assert "from-" not in repr(config)
    assert "from-" not in repr(resolve(config))
    assert loaded.warnings == ()


def test_a_plain_secret_warns(write):
    """A secret written into the file works, with a warning that does not repeat it."""
    loaded = load(write(UPSTREAM + 'api_key = "sk-1"\n'), {}, {})
    (warning,) = loaded.warnings
    assert (warning.line, warning.key) == (3, "upstream[0].api_key")
    assert "sk-1" not in str(warning)


@pytest.mark.parametrize(
    "secret",
    ['{ env = "UNSET" }', '{ file = "none" }', "{ }", "{ env = 1 }", '""', "7", "[]"],
)
def test_a_secret_that_cannot_be_read_is_an_error(write, secret):
    """An absent variable or file is a fault, not an empty secret."""
    ((line, key, _),) = problems(write(UPSTREAM + f"api_key = {secret}\n"))
    assert (line, key) == (3, "upstream[0].api_key")


def test_an_empty_secret_file_is_an_error(write, tmp_path):
    """An empty secret file is refused: the gateway would have no password."""
    (tmp_path / "key").write_text("\n")
    (tmp_path / "raw").write_bytes(b"\xff\xfe")
    for name in ("key", "raw"):
        text = UPSTREAM + f'api_key = {{ file = "{name}" }}\n'
        assert len(problems(write(text))) == 1


def test_passwords_in_urls_are_not_printed(write):
    """repr masks the user part of a URL."""
    text = UPSTREAM + '[store]\nurl = "redis://:hunter2@r:6379/0"\n'
    loaded = load(write(text), {}, {})
    assert "hunter2" not in repr(loaded)
    assert loaded.warnings[0].key == "store.url"


@pytest.mark.parametrize(
    ("text", "line"),
    [("a = 1\nb = \n", 2), ("[server\n", 1), ("x = " + "[" * 3000, 0)],
)
def test_broken_toml_says_where(write, text, line):
    """A syntax error is reported with its line."""
    ((found, _, message),) = problems(write(text))
    assert found == line
    assert "not TOML" in message


def test_unreadable_files_are_errors(tmp_path, write):
    """A file that is not there, or not text, is a configuration error."""
    assert "cannot read" in problems(str(tmp_path / "no.toml"))[0][2]
    (tmp_path / "raw.toml").write_bytes(b"\n\n\xff")
    assert problems(str(tmp_path / "raw.toml"))[0][::2] == (3, "not UTF-8")


def test_sections_of_the_wrong_kind_are_errors(write):
    """A section that is not a table is reported, also with flags for it."""
    text = 'policy = 1\nupstream = 2\nstore = 3\nserver = "x"\n'
    flags = {"mode": "enforce", "upstream": "http://x"}
    found = {key for _, key, _ in problems(write(text), flags)}
    assert found == {"policy", "upstream", "store", "server"}


def test_policies_of_the_wrong_kind_are_errors(write, tmp_path, monkeypatch):
    """A policy that is not a table is reported."""
    (found,) = problems(
        write(UPSTREAM + "[policy]\ndefault = 1\n"), {"mode": "observe"}
    )
    assert found[1] == "policy.default"


def test_records_lie_beside_the_embedded_store(tmp_path):
    """Records go to a file by default with an embedded store only; "" turns it off."""
    path = tmp_path / "t.toml"
    upstream = '[[upstream]]\nurl = "http://127.0.0.1:1"\n'
    path.write_text(upstream + '[store]\nurl = "embedded:./here"\n')
    assert (
        load_config(str(path), env={}).events.file == f"{tmp_path}/here/records.jsonl"
    )
    flags = {"store.url": "memory:"}
    assert load_config(str(path), flags, env={}).events.file is None
    path.write_text(upstream + '[events]\nfile = ""\n')
    assert not load_config(str(path), env={}).events.file


@pytest.mark.parametrize("flag", ["server.listen", "server.tls.cert"])
def test_a_flag_below_what_is_no_table(flag, tmp_path):
    """The fault of the file is reported, not the flag's."""
    file = tmp_path / "t.toml"
    file.write_text("server = 3\n")
    with pytest.raises(ConfigError, match="server: must be a table"):
        load(str(file), {flag: "x", "upstream": "http://x"})
