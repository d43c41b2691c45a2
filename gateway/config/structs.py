"""The configuration as frozen structs, one for each TOML table.

The string under each key is its documentation: the page ``docs/configuration.md`` is
written from them. A key that is None by default is absent, or inherited.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

from gateway.config.values import (
    EMBEDDED_DIRECTORY,
    Duration,
    FilePath,
    Secret,
    Size,
    StoreUrl,
    Url,
    parse_address,
)
from gateway.core.model import Mode, Price

Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0)]
Sigma = Annotated[float, Meta(gt=0)]
UnitShare = Annotated[float, Meta(ge=0, le=1)]
# The classes that anybody is acted on for.
AbuseClass = Literal[
    "cost_spike", "ddos", "scraping", "credential_abuse", "probing", "volume"
]
Severity = Literal["info", "warning", "critical"]
DialectName = Literal[
    "auto",
    "openai",
    "azure",
    "anthropic",
    "gemini",
    "ollama",
    "cohere",
    "bedrock",
    "passthrough",
]
DEFAULT_STORE = f"embedded:{EMBEDDED_DIRECTORY}"


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A TOML table; unknown keys are errors."""


class TlsTable(Table, frozen=True):
    """The certificate that those who connect see (TLS 1.2 or later)."""

    cert: FilePath
    """PEM file: the certificate, then its chain. Read again when it changes."""
    key: FilePath
    """PEM file with the private key."""


class LogTable(Table, frozen=True):
    """Structured logs on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is written."""
    format: Literal["auto", "json", "console"] = "auto"
    """`auto`: for people on a terminal, JSON lines otherwise."""


class ServerTable(Table, frozen=True):
    """The port that clients talk to, and what one client may ask of it."""

    listen: str = "127.0.0.1:8080"
    """`host:port`; `[::1]:8080` for IPv6, `:8080` for every address, port 0: any."""
    workers: Positive | Literal["auto"] = 1
    """Worker processes; `"auto"`: one for each core this process may use."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks whose `X-Forwarded-For`, `Forwarded` or PROXY header is believed."""
    proxy_protocol: bool = False
    """Expect a PROXY v1 or v2 header on every connection from a trusted proxy."""
    unknown_clients: Literal["anonymous", "deny"] | None = None
    """Who matches no tenant: the `anonymous` policy, or 401. Absent: `deny` when every
    tenant states credentials and there is no `[policy.anonymous]`."""
    health_path: str | None = None
    """Answered 200 on this port, 503 while draining; for probes that cannot reach the
    admin port."""
    timezone: str = "UTC"
    """IANA name; calendar windows turn at its midnight."""
    tls: TlsTable | None = None
    """Serve HTTPS."""
    log: LogTable = LogTable()
    """Structured logs."""
    drain_timeout: Duration = Duration(30)
    """After SIGTERM, how long open exchanges may run on."""
    head_timeout: Duration = Duration(10)
    """For the whole request head; then 408."""
    min_body_rate: Size = Size(1024)
    """Least bytes a second of a request body, after a first 10 s; then 408."""
    write_timeout: Duration = Duration(30)
    """How long a client may take none of its answer before it is dropped."""
    keepalive_timeout: Duration = Duration(75)
    """How long an idle client connection is kept."""
    max_header_bytes: Size = Size(64 << 10)
    """Size of a request head; then 431."""
    max_headers: Positive = 100
    """Header fields of one request; then 431."""
    max_target: Size = Size(16 << 10)
    """Size of a request target (path and query); then 414."""
    max_body: Size = Size(32 << 20)
    """Size of a request body on a metered endpoint; then 413."""
    max_connections: Positive = 32_768
    """Client connections of one worker; then 503 with Retry-After."""
    max_connections_per_ip: NotNegative = 16_384
    """Of one address, in one worker; 0: no limit. Half of all, so that one address
    cannot take every place; lower it on a port that strangers reach."""
    max_inflate: Size = Size(64 << 20)
    """Size of a compressed request body once decoded; then 413."""
    max_inflate_ratio: Positive = 100
    """Times its own size that a compressed body may become; then 413."""

    @property
    def address(self) -> tuple[str, int]:
        """``listen`` as (host, port)."""
        return parse_address(self.listen)


class AdminTable(Table, frozen=True):
    """The port for operators: health, metrics, admin API."""

    listen: str = "127.0.0.1:9901"
    """`host:port`."""
    token: Secret | None = None
    """Bearer token of the admin API. Required unless `listen` is a loopback address."""
    viewer_token: Secret | None = None
    """Another token, of those who may look and change nothing; only beside `token`."""
    tls: TlsTable | None = None
    """HTTPS on this port. For a `listen` that other machines reach: the token crosses
    the network.
    """

    @property
    def address(self) -> tuple[str, int]:
        """``listen`` as (host, port)."""
        return parse_address(self.listen)


class StoreTable(Table, frozen=True):
    """Where the counters live."""

    url: StoreUrl = StoreUrl(DEFAULT_STORE)
    """`embedded:DIR`, `memory:`, `redis://`, `rediss://`, `unix://` or
    `redis+sentinel://HOST:PORT,…/NAME/DB`; `redis+cluster://` with a later version."""
    when_down: Literal["local", "open", "closed"] = "local"
    """While the store is away: limit on this machine alone, admit all, refuse all."""
    prefix: str = "tidegate:"
    """Of every key, followed by a schema version."""
    timeout: Duration = Duration(0.05)
    """Silence after which the store counts as away."""
    username: str | None = None
    """ACL user; a name in the URL works too."""
    password: Secret | None = None
    """Wins over a password in the URL."""
    ca_file: FilePath | None = None
    """PEM file of the authority that signed a `rediss://` server's certificate."""
    tls_verify: bool = True
    """`false` accepts any certificate of a `rediss://` server."""


class TimeoutsTable(Table, frozen=True):
    """How long each part of an upstream call may take."""

    connect: Duration = Duration(5)
    """TCP and TLS together; then 504."""
    first_byte: Duration = Duration(600)
    """From the request sent to the answer's first byte; then 504. Reasoning models
    think for minutes before they say a word."""
    idle: Duration = Duration(300)
    """Silence within an answer, or of a tunnel in both directions."""
    total: Duration = Duration(3600)
    """The whole exchange, tunnels included."""


class UpstreamTable(Table, frozen=True):
    """An LLM API that requests are forwarded to."""

    name: str | None = None
    """In records and metrics. Absent: the host of its URL, and the prefix."""
    url: Url | None = None
    """`http://` or `https://`; a path in it comes before the request's."""
    targets: tuple[Url, ...] = ()
    """More servers of the same API, taken in turn; instead of `url` or beside it."""
    prefix: str = "/"
    """Paths that go here, matched on whole segments; the longest prefix wins."""
    strip_prefix: bool = False
    """Cut the prefix off before forwarding."""
    dialect: DialectName = "auto"
    """The API's wire format; `auto` tells it from path and body."""
    on_disconnect: Literal["cancel", "drain"] = "cancel"
    """A client left: close the upstream, or read the answer to its end."""
    drain_max: NotNegative = 100
    """Answers of left clients that one worker reads on at a time."""
    drain_timeout: Duration = Duration(120)
    """Longest time that one is read on."""
    websocket: bool = False
    """Let WebSocket and other upgrades through as tunnels."""
    ask_usage: bool = True
    """Ask OpenAI-style streams for their usage; the extra chunk is taken out again."""
    api_key: Secret | None = None
    """Replaces the client's credential upstream."""
    api_key_header: str | None = None
    """Header that carries it. Absent: by dialect or host (`authorization` as Bearer,
    `x-api-key` for Anthropic, `x-goog-api-key` for Gemini, `api-key` for Azure)."""
    ca_file: FilePath | None = None
    """PEM file of the authority that signed the upstream's certificate."""
    tls_verify: bool = True
    """`false` accepts any certificate."""
    proxy: Url | None = None
    """`http://[user:password@]host:port` of an egress proxy that speaks CONNECT."""
    max_connections: Positive = 10_000
    """Connections of one worker to it; then 503 with Retry-After."""
    keepalive: Duration = Duration(30)
    """How long an idle connection to it is kept."""
    timeouts: TimeoutsTable = TimeoutsTable()
    """How long each part of a call may take."""


class LimitTable(Table, frozen=True):
    """Subject x meter x window: exactly one meter."""

    per: str
    """`client_ip`, `user`, `tenant`, `model`, or two of them joined by `+`."""
    requests: Positive | None = None
    """Calls."""
    tokens: Positive | None = None
    """All tokens, as the provider totals them."""
    prompt_tokens: Positive | None = None
    """Tokens of the request."""
    completion_tokens: Positive | None = None
    """Tokens of the answer."""
    concurrent: Positive | None = None
    """Exchanges open at one moment; has no window."""
    usd: Annotated[float, Meta(gt=0)] | None = None
    """US dollars, by the price table."""
    window: str | None = None
    """Sliding, `"1s"` to `"1d"`; or the calendar's `"day"`, `"week"`, `"month"`."""


class CapsTable(Table, frozen=True):
    """What one request may ask for; refused with 400 beyond it."""

    max_tokens: Positive | None = None
    """Highest completion cap."""
    n: Positive | None = None
    """Most choices."""
    max_body: Size | None = None
    """Largest body (413)."""
    max_stream: Duration | None = None
    """Longest time that an answer may flow."""
    clamp: bool | None = None
    """Rewrite `max_tokens` and `n` to the cap instead of refusing."""


class ModelTable(Table, frozen=True):
    """What holds for some models beside the policy's own."""

    match: str | tuple[str, ...]
    """Model name or pattern (`gpt-4*`), or a list of them."""
    limits: tuple[LimitTable, ...] = ()
    """Limits that count these models only; the policy's own limits hold as well."""
    caps: CapsTable = CapsTable()
    """Caps that stand instead of the policy's; the first match decides."""


class LadderTable(Table, frozen=True):
    """Score (calibrated sigma) from which each response starts."""

    tag: Sigma | None = None
    """Pass it on, marked for the upstream."""
    throttle: Sigma | None = None
    """Slow it down."""
    block: Sigma | None = None
    """Refuse it for a while."""


class AnomalyTable(Table, frozen=True):
    """Detection of abuse, and the responses to it."""

    enabled: bool | None = None
    """Score the traffic of this policy's tenants."""
    warning: Sigma | None = None
    """Calibrated sigma that warns."""
    critical: Sigma | None = None
    """Calibrated sigma that pages."""
    ladder: LadderTable = LadderTable()
    """From which score on what is done."""
    classes: dict[AbuseClass, LadderTable] = {}
    """Ladders of some classes, such as `scraping = { block = 6.0 }`; what they leave
    open is the general ladder's."""
    grace: Duration | None = None
    """History from which a subject's volume is fully held against itself. Built in:
    `1d`."""
    block_ttl: Duration | None = None
    """First block of a subject; doubles with each return. Built in: `10m`."""
    max_block_ttl: Duration | None = None
    """Longest block. Built in: `1d`."""
    max_blocked_share: UnitShare | None = None
    """Largest share of a tenant's known users that is blocked without a human. Built
    in: 0.2."""
    throttle_share: Share | None = None
    """What a throttled subject keeps of its ordinary rate. Built in: 0.5."""
    delay: Duration | None = None
    """Hold throttled requests up to this long instead of refusing them. Built in: `0s`,
    which refuses."""
    max_delayed: Positive | None = None
    """Requests that a worker holds at a time; others are refused. Built in: 100."""


class PolicyTable(Table, frozen=True):
    """Limits and responses; an absent key is inherited."""

    inherit: str | None = None
    """The policy that gives what is absent here. Absent: `default`; `""`: none."""
    mode: Mode | None = None
    """`observe` decides and records but lets everything through. Built in: `enforce`;
    without a configuration file `observe`."""
    limits: tuple[LimitTable, ...] | None = None
    """Stands instead of the inherited list."""
    extra_limits: tuple[LimitTable, ...] = ()
    """Comes on top of `limits` or the inherited list."""
    model: tuple[ModelTable, ...] | None = None
    """What holds for some models; stands instead of the inherited list."""
    caps: CapsTable = CapsTable()
    """What one request may ask for."""
    weights: dict[
        Literal["prompt", "completion", "cached", "cache_write", "reasoning"], Share
    ] = {}
    """What a token of a kind counts against token limits, such as `cached = 0.1`."""
    unknown_price: Literal["free", "deny"] | Price | None = None
    """A model without a price: `free` (counted in a metric), `deny`, or a price in
    dollars per million tokens. Built in: `free`."""
    prices: dict[str, Price] = {}
    """Dollars per million tokens by model name or pattern, over the built-in table."""
    user_from: tuple[Literal["credential", "jwt", "header", "body"], ...] | None = None
    """Where the user id comes from; the first that is there wins. Built in:
    credential, jwt, header, body."""
    allow: tuple[str, ...] | None = None
    """Never limited nor acted on: an address, a network, `user:NAME`."""
    anomaly: AnomalyTable = AnomalyTable()
    """Detection."""


class JwtTable(Table, frozen=True):
    """JSON Web Tokens that belong to a tenant."""

    jwks_file: FilePath | None = None
    """Public keys, from a file."""
    jwks_url: Url | None = None
    """Public keys, fetched and refreshed."""
    issuer: str | None = None
    """Required `iss`."""
    audience: str | None = None
    """Required `aud`."""
    user_claim: str = "sub"
    """The claim that names the user."""
    require: dict[str, str] = {}
    """Claims that must have these values."""
    algorithms: tuple[
        Literal[
            "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
            "ES256", "ES384", "ES512", "EdDSA",
        ],
        ...,
    ] = ("RS256", "ES256", "EdDSA")  # fmt: skip
    """Accepted signatures; public-key ones only."""


class HeaderTable(Table, frozen=True):
    """A tenant named by a header, believed from trusted proxies only."""

    name: str
    """Header name."""
    value: str
    """Its value for this tenant."""
    user_header: str | None = None
    """Header that names the user."""


class TenantTable(Table, frozen=True):
    """A set of credentials under one policy. Without any: every client."""

    name: str
    """Letters, digits, `.`, `_`, `-`."""
    policy: str = "default"
    """Name of its policy."""
    api_keys: tuple[str, ...] = ()
    """`sha256:…` of each client key; `tidegate keys` makes them."""
    jwt: JwtTable | None = None
    """Tokens signed by these keys."""
    header: HeaderTable | None = None
    """A header set by a trusted proxy."""
    cidrs: tuple[str, ...] = ()
    """Networks whose clients need no credential."""


class CampaignTable(Table, frozen=True):
    """A known launch: the surge is expected."""

    starts: datetime = field(name="from")
    """First moment (without an offset: in `server.timezone`)."""
    ends: datetime = field(name="to")
    """Last moment."""
    tenant: str = "*"
    """Its tenant; `"*"`: all."""
    expect: Annotated[float, Meta(gt=1)] = 2.0
    """Times the usual traffic."""


class AlertTable(Table, frozen=True):
    """A receiver of alerts."""

    type: Literal[
        "webhook",
        "slack",
        "pagerduty",
        "opsgenie",
        "alertmanager",
        "teams",
        "email",
    ]
    """What it speaks."""
    name: str | None = None
    """Its name in commands, metrics and lists. Absent: its type, numbered from the
    second on."""
    url: Url | None = None
    """Where to; PagerDuty and Opsgenie know theirs. E-mail: `smtp://user@host:587` or
    `smtps://user@host:465`."""
    secret: Secret | tuple[Secret, ...] = ()
    """Webhook: signing secret `whsec_…` (a list of two while rotating); PagerDuty and
    Opsgenie: the integration's key; e-mail: the password."""
    min_severity: Severity = "warning"
    """Least severity that is sent."""
    allow_private: bool = False
    """Allow loopback and private addresses."""
    events: tuple[str, ...] | None = None
    """What it is told of, such as `["incident.*", "client.blocked"]`. Absent: incidents
    and the gateway's own troubles, a webhook also of clients blocked and unblocked."""
    max_alerts_per_minute: Positive = 30
    """What is more is folded into one digest a minute; the end of an incident is always
    told by itself."""
    retries: tuple[Duration, ...] | None = None
    """Pauses before each further attempt. Absent: `["5s", "5m", "30m", "2h", "5h",
    "10h", "14h", "20h", "24h"]`."""
    to: tuple[str, ...] = ()
    """E-mail: who gets it."""
    sender: str | None = field(default=None, name="from")
    """E-mail: who it is from."""


class SilenceTable(Table, frozen=True):
    """A maintenance window: alerts that match are not sent."""

    starts: datetime = field(name="from")
    """First moment (without an offset: in `server.timezone`)."""
    ends: datetime = field(name="to")
    """Last moment. What is still open then is told."""
    tenant: str = "*"
    """Its tenant; `"*"`: all."""
    cls: str = field(default="*", name="class")
    """Class of attack; `"*"`: all."""
    subject: str = "*"
    """`kind:id`, such as `client_ip:203.0.113.9`; `"*"`: all."""
    reason: str = ""
    """A sentence for those who ask why."""


class KafkaTable(Table, frozen=True):
    """Records to Kafka. Not available in this version."""

    brokers: tuple[str, ...]
    """`host:port` each."""
    topic: str = "tidegate.records"
    """Where to."""


class InfluxTable(Table, frozen=True):
    """Records to InfluxDB (docs/monitoring.md)."""

    url: Url
    """Where it listens. With `org` or `token` the API of versions 2 and 3 is used, else
    that of version 1 (user and password in the URL)."""
    bucket: str
    """Bucket, or database of version 1."""
    org: str = ""
    """Organisation (version 2)."""
    token: Secret | None = None
    """Credential that may write there."""


class EventsTable(Table, frozen=True):
    """Where the record of each finished request goes."""

    file: FilePath | None = None
    """JSON lines. Absent: `records.jsonl` in the directory of an embedded store, else no
    file; `""`: no file."""
    max_size: Size = Size(100 << 20)
    """Size at which the file is turned over to `FILE.1`."""
    keep: NotNegative = 5
    """Turned-over files that are kept."""
    kafka: KafkaTable | None = None
    """Records to Kafka."""
    influx: InfluxTable | None = None
    """Records to InfluxDB."""


class Config(Table, frozen=True):
    """The whole file, with environment and flags applied."""

    server: ServerTable = ServerTable()
    """The port that clients talk to."""
    admin: AdminTable = AdminTable()
    """The port for operators."""
    store: StoreTable = StoreTable()
    """Where the counters live."""
    upstreams: tuple[UpstreamTable, ...] = field(default=(), name="upstream")
    """LLM APIs."""
    policies: dict[str, PolicyTable] = field(default_factory=dict, name="policy")
    """Limits and responses by name."""
    tenants: tuple[TenantTable, ...] = field(default=(), name="tenant")
    """Who is under which policy."""
    campaigns: tuple[CampaignTable, ...] = field(default=(), name="campaign")
    """Known launches."""
    alerts: tuple[AlertTable, ...] = field(default=(), name="alert")
    """Receivers of alerts."""
    silences: tuple[SilenceTable, ...] = field(default=(), name="silence")
    """Maintenance windows."""
    events: EventsTable = EventsTable()
    """Where records go."""
