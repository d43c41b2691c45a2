"""The configuration as frozen structs, one for each TOML table.

The string under each key is its documentation: ``docs/configuration.md`` is generated
from them (``python -m gateway.config.document``). A key whose default is None is absent
or inherited. Built-in values of inherited keys are the defaults of ``core.model``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, field

from gateway.config.keys import (
    KeyTable,
    LimitTable,
    ModelListTable,
    Positive,
    Table,
)
from gateway.config.prices import ModelPrice, PriceRates
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
from gateway.core.model import AbuseClass, Mode
from gateway.store.backend import DEFAULT_TIMEOUT_S
from gateway.store.opening import complete_url
from gateway.store.url import StoreLogin

NotNegative = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0)]
Sigma = Annotated[float, Meta(gt=0)]
UnitShare = Annotated[float, Meta(ge=0, le=1)]
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


class TlsTable(Table, frozen=True):
    """Server certificate of a port (TLS 1.2 or later)."""

    cert: FilePath
    """PEM file: the certificate, then its chain. Reloaded when it changes."""
    key: FilePath
    """PEM file with the private key."""


class LogTable(Table, frozen=True):
    """Structured logs on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is written."""
    format: Literal["auto", "json", "console"] = "auto"
    """`auto`: `console` on a terminal, `json` otherwise."""


class ServerTable(Table, frozen=True):
    """The port for clients, and limits on a connection."""

    listen: str = "127.0.0.1:8080"
    """`host:port`; `[::1]:8080` for IPv6, `:8080` for every address, port 0: any free
    port."""
    workers: Positive | Literal["auto"] = 1
    """Worker processes; `"auto"`: one for each core this process may use."""
    hosts: tuple[str, ...] = ()
    """Names (`llm.example`, `*.example`) by which clients and web pages address this port,
    beside loopback names and the listen address; others get 403, unless a trusted proxy
    sends them. Absent: checked if `listen` is a loopback address; `["*"]`: any."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks whose `X-Forwarded-For`, `Forwarded` or PROXY header is trusted."""
    client_ip_header: Literal["x-forwarded-for", "forwarded"] | None = None
    """The one header from trusted proxies that names the client. Absent: either; a request
    in which both are present and name different clients is refused with 400."""
    proxy_protocol: bool = False
    """Expect a PROXY v1 or v2 header on every connection from a trusted proxy."""
    unknown_clients: Literal["anonymous", "deny"] | None = None
    """Clients that match no tenant: `anonymous` applies the policy of that name, `deny`
    answers 401. Absent: `deny` if every tenant states credentials and there is no
    `[policy.anonymous]`."""
    health_path: str | None = None
    """Answered 200 on this port, 503 while draining; for probes that cannot reach the
    admin port."""
    timezone: str = "UTC"
    """IANA name; calendar windows start at its midnight."""
    tls: TlsTable | None = None
    """Serve HTTPS."""
    log: LogTable = LogTable()
    """Structured logs."""
    drain_timeout: Duration = Duration(30)
    """Longest time that open exchanges may continue after SIGTERM."""
    head_timeout: Duration = Duration(10)
    """Longest time for the whole request head; then 408."""
    min_body_rate: Size = Size(1024)
    """Lowest rate of a request body, bytes per second, after the first 10 s; then 408."""
    write_timeout: Duration = Duration(30)
    """Longest time without the client reading any of its answer; then the connection is
    closed."""
    keepalive_timeout: Duration = Duration(75)
    """Longest time that an idle client connection is kept open."""
    max_header_bytes: Size = Size(64 << 10)
    """Largest request head; then 431."""
    max_headers: Positive = 100
    """Most header fields of one request; then 431."""
    max_target: Size = Size(16 << 10)
    """Largest request target (path and query); then 414."""
    max_body: Size = Size(32 << 20)
    """Largest request body on a metered endpoint; then 413."""
    max_connections: Positive = 32_768
    """Most client connections of one worker; then 503 with Retry-After."""
    max_connections_per_ip: NotNegative = 16_384
    """Most connections of one client address in one worker; 0: no limit. The default is
    half of `max_connections`, so that one address cannot take them all. Lower it on a
    public port."""
    max_inflate: Size = Size(64 << 20)
    """Largest decoded size of a compressed request body; then 413."""
    max_inflate_ratio: Positive = 100
    """Highest ratio of decoded to compressed size; then 413."""

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
    """A second token with read-only access; requires `token`."""
    tls: TlsTable | None = None
    """Serve HTTPS on this port. Use it if other machines reach `listen`: without it the
    token crosses the network in plain text."""

    @property
    def address(self) -> tuple[str, int]:
        """``listen`` as (host, port)."""
        return parse_address(self.listen)


class StoreTable(Table, frozen=True):
    """Where counters are kept."""

    url: StoreUrl = StoreUrl(DEFAULT_STORE)
    """Sentinel: `redis+sentinel://HOST:PORT,…/NAME/DB`. `redis+cluster://` is not
    supported yet."""
    when_down: Literal["local", "open", "closed"] = "local"
    """While the store is unreachable: `local` limits on this machine alone, `open` admits
    all requests, `closed` refuses all."""
    prefix: str = "tidegate:"
    """Prefix of every key; a schema version follows it."""
    timeout: Duration = Duration(DEFAULT_TIMEOUT_S)
    """Longest wait for an answer; then the store counts as unreachable."""
    username: str | None = None
    """ACL user; may also be in the URL."""
    password: Secret | None = None
    """Overrides a password in the URL."""
    ca_file: FilePath | None = None
    """PEM file of the authority that signed a `rediss://` server's certificate."""
    tls_verify: bool = True
    """`false` accepts any certificate of a `rediss://` server."""

    def connection_url(self) -> str:
        """``url`` with these credentials and TLS settings: a secret. Raises
        StoreUrlError.
        """
        login = StoreLogin(
            username=self.username,
            password=None if self.password is None else self.password.reveal(),
            ca_file=None if self.ca_file is None else str(self.ca_file),
            tls_verify=self.tls_verify,
        )
        return complete_url(str(self.url), login)


class TimeoutsTable(Table, frozen=True):
    """Timeouts of an upstream call."""

    connect: Duration = Duration(5)
    """TCP and TLS together; then 504."""
    first_byte: Duration = Duration(600)
    """From the end of the request to the first byte of the answer; then 504. Reasoning
    models take minutes before the first byte."""
    idle: Duration = Duration(300)
    """Longest pause within an answer, or in both directions of a tunnel."""
    total: Duration = Duration(3600)
    """The whole exchange, tunnels included."""


class UpstreamTable(Table, frozen=True):
    """An LLM API that requests are forwarded to."""

    name: str | None = None
    """Name in records and metrics. Absent: the host of its URL and the prefix."""
    url: Url | None = None
    """`http://` or `https://`; its path is prepended to the request's path."""
    targets: tuple[Url, ...] = ()
    """More servers of the same API, used in turn; instead of `url` or in addition."""
    prefix: str = "/"
    """Paths that are routed here, matched on whole segments; the longest prefix wins."""
    strip_prefix: bool = False
    """Remove the prefix before forwarding."""
    dialect: DialectName = "auto"
    """The API's wire format; `auto` detects it from path and body."""
    on_disconnect: Literal["cancel", "drain"] = "cancel"
    """When a client disconnects: `cancel` closes the upstream connection, `drain` reads
    the answer to its end, so that its usage is counted."""
    drain_max: NotNegative = 100
    """Most answers that one worker drains at a time."""
    drain_timeout: Duration = Duration(120)
    """Longest time that an answer is drained."""
    websocket: bool = False
    """Pass WebSocket and other upgrades through as tunnels."""
    ask_usage: bool = True
    """Request the usage of OpenAI-style streams; the extra chunk is removed again. A
    request that does not ask itself and cannot be edited (signed, compressed) is refused.
    A model whose upstream refuses `stream_options` is not asked again until a reload.
    """
    provider: str | None = None
    """Whose prices apply, as `tidegate prices --providers` names it. Absent: by the host
    of the URL, else the vendor of the model."""
    trust_cost: bool = False
    """A cost that the answer states (`usage.cost` of a router) is its price."""
    api_key: Secret | None = None
    """Replaces the client's credential upstream."""
    api_key_header: str | None = None
    """Header that carries the key. Absent: by dialect or host (`authorization` as Bearer,
    `x-api-key` for Anthropic, `x-goog-api-key` for Gemini, `api-key` for Azure)."""
    ca_file: FilePath | None = None
    """PEM file of the authority that signed the upstream's certificate."""
    tls_verify: bool = True
    """`false` accepts any certificate."""
    proxy: Url | None = None
    """`http://[user:password@]host:port` of an egress proxy that speaks CONNECT."""
    max_connections: Positive = 10_000
    """Most connections of one worker to the upstream; then 503 with Retry-After."""
    keepalive: Duration = Duration(30)
    """Longest time that an idle upstream connection is kept open."""
    timeouts: TimeoutsTable = TimeoutsTable()
    """Timeouts of a call."""


class CapsTable(Table, frozen=True):
    """Caps on one request; beyond them it is refused with 400."""

    max_tokens: Positive | None = None
    """Highest completion cap that a request may state."""
    n: Positive | None = None
    """Most choices."""
    max_body: Size | None = None
    """Largest body (413)."""
    max_stream: Duration | None = None
    """Longest duration of an answer."""
    clamp: bool | None = None
    """Lower `max_tokens` and `n` to the cap instead of refusing."""


class ModelTable(Table, frozen=True):
    """Limits and caps of some models."""

    match: str | tuple[str, ...]
    """Model name or pattern (`gpt-4*`), or a list of them."""
    limits: tuple[LimitTable, ...] = ()
    """Limits that count these models only, in addition to the policy's limits."""
    caps: CapsTable = CapsTable()
    """Caps that replace the policy's; the first match decides."""


class LadderTable(Table, frozen=True):
    """Lowest score of each response (docs/detection.md)."""

    tag: Sigma | None = None
    """Forward the request with a header that names the verdict."""
    throttle: Sigma | None = None
    """Reduce the subject's rate."""
    block: Sigma | None = None
    """Refuse the subject's requests for `block_ttl`."""


class AnomalyTable(Table, frozen=True):
    """Abuse detection and responses."""

    enabled: bool | None = None
    """Score the traffic of this policy's tenants. Built in: `true`."""
    warning: Sigma | None = None
    """Lowest score of a warning. Built in: 3.0."""
    critical: Sigma | None = None
    """Lowest score of a critical incident. Built in: 5.0."""
    ladder: LadderTable = LadderTable()
    """Lowest score of each response."""
    classes: dict[AbuseClass, LadderTable] = field(default_factory=dict)
    """Ladders of some classes, such as `scraping = { block = 6.0 }`; absent keys come from
    `ladder`."""
    grace: Duration | None = None
    """Length of history from which a subject's own volume counts fully against it. Built
    in: `1d`."""
    block_ttl: Duration | None = None
    """Duration of a subject's first block; doubles with each further one. Built in:
    `10m`."""
    max_block_ttl: Duration | None = None
    """Longest block. Built in: `1d`."""
    max_blocked_share: UnitShare | None = None
    """Largest share of a tenant's known users that is blocked automatically. Built in:
    0.2."""
    throttle_share: Share | None = None
    """Rate of a throttled subject, as a share of its expected rate. Built in: 0.5."""
    delay: Duration | None = None
    """Longest delay of a throttled request, instead of refusing it. Built in: `0s`, which
    refuses."""
    max_delayed: Positive | None = None
    """Most requests that a worker delays at a time; others are refused. Built in: 100."""


class PolicyTable(Table, frozen=True):
    """Limits and responses; an absent key is inherited."""

    inherit: str | None = None
    """Policy that absent keys are inherited from. Absent: `default`; `""`: none."""
    mode: Mode | None = None
    """`observe` decides and records but refuses nothing. Built in: `enforce`; without a
    configuration file `observe`."""
    limits: tuple[LimitTable, ...] | None = None
    """Replaces the inherited list."""
    extra_limits: tuple[LimitTable, ...] = ()
    """Added to `limits` or the inherited list."""
    model: tuple[ModelTable, ...] | None = None
    """Limits and caps of some models; replaces the inherited list."""
    caps: CapsTable = CapsTable()
    """Caps on one request."""
    weights: dict[
        Literal["prompt", "completion", "cached", "cache_write", "reasoning"], Share
    ] = field(default_factory=dict)
    """Weight of a token of each kind in token limits, such as `cached = 0.1`."""
    unknown_price: Literal["free", "deny"] | PriceRates | None = None
    """A model without a price: `free` (counted in a metric), `deny`, or a price in
    dollars per million tokens. Built in: `free`."""
    prices: dict[str, ModelPrice] = field(default_factory=dict)
    """Prices by model name or pattern, over the price table."""
    user_from: tuple[Literal["credential", "jwt", "header", "body"], ...] | None = None
    """Sources of the user id; the first that is present wins. Built in: credential, jwt,
    header, body."""
    allow: tuple[str, ...] | None = None
    """Subjects that are never limited, throttled or blocked: an address, a network,
    `user:NAME` (verified users, never names from a body), `tenant:NAME`."""
    endpoints: tuple[str, ...] | None = None
    """Endpoints that clients may use, else 403: names of records (`chat.completions`,
    `images.*`), `metered`, paths with or without a method (`GET /v1/files/*`), or `*`.
    Built in: `["*"]`; with `upstream.api_key` and `[[tenant]]`s `["metered", "models"]`,
    so that tenants do not share files and stored answers of the provider's account."""
    models: ModelListTable | None = None
    """Models that clients may use, else 403."""
    anomaly: AnomalyTable = AnomalyTable()
    """Abuse detection."""
    overdraft: UnitShare | None = None
    """Share of a limit of tokens or money by which open calls may exceed it; `0` is
    strict. Built in: 0.1."""
    assumed_max_tokens: Positive | None = None
    """Completion tokens that a call without a cap reserves, at least; eight times as many
    if its answer is not streamed. Built in: 4096."""
    overrun: Literal["finish", "cut"] | None = None
    """A stream that outgrows its reservation where there is no more: `finish` lets one at
    a time end by itself, `cut` ends it with an error. Built in: `finish`."""
    network_factor: NotNegative | None = None
    """An IPv6 client is a /64. All clients of one /48 together may use this multiple of
    each limit per `client_ip` (and per `user`, of anonymous ones); `0`: without a limit of
    their own. Built in: 8."""
    assumed_job_usd: Share | None = None
    """US dollars that accepted work reserves, and counts against limits, where nothing
    says what it costs: batches of files, fine-tuning jobs, videos without a price.
    Built in: 1."""
    assumed_context_tokens: Positive | None = None
    """Tokens that a call reserves, beside its body, if part of its prompt is not in it: an
    earlier response, a conversation, a file, a cache, or what tools of the provider find.
    Such calls run one at a time where there is less room. Built in: 65536."""


class JwtTable(Table, frozen=True):
    """JSON Web Tokens of a tenant."""

    jwks_file: FilePath | None = None
    """File of public keys (JWKS)."""
    jwks_url: Url | None = None
    """URL of public keys (JWKS), fetched and refreshed."""
    issuer: str | None = None
    """Required `iss`."""
    audience: str | None = None
    """Required `aud`."""
    user_claim: str = "sub"
    """The claim that names the user."""
    require: dict[str, str] = field(default_factory=dict)
    """Claims and their required values."""
    algorithms: tuple[
        Literal[
            "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
            "ES256", "ES384", "ES512", "EdDSA",
        ],
        ...,
    ] = ("RS256", "ES256", "EdDSA")  # fmt: skip
    """Accepted signature algorithms; public-key ones only."""


class HeaderTable(Table, frozen=True):
    """A header that names the tenant; trusted from `trusted_proxies` only."""

    name: str
    """Header name."""
    value: str
    """Its value for this tenant."""
    user_header: str | None = None
    """Header that names the user."""


class TenantTable(Table, frozen=True):
    """A set of credentials under one policy. Without credentials: every client."""

    name: str
    """Letters, digits, `.`, `_`, `-`."""
    policy: str = "default"
    """Name of its policy."""
    api_keys: tuple[str | KeyTable, ...] = ()
    """Client keys: `sha256:…` of each (`tidegate keys` makes them), or tables with a name
    and rules of their own."""
    jwt: JwtTable | None = None
    """JSON Web Tokens."""
    header: HeaderTable | None = None
    """A header set by a trusted proxy."""
    cidrs: tuple[str, ...] = ()
    """Networks whose clients need no credential."""


class CampaignTable(Table, frozen=True):
    """A planned surge of traffic, which is not alerted."""

    starts: datetime = field(name="from")
    """Start (without an offset: in `server.timezone`)."""
    ends: datetime = field(name="to")
    """End."""
    tenant: str = "*"
    """Its tenant; `"*"`: all."""
    expect: Annotated[float, Meta(gt=1)] = 2.0
    """Expected multiple of the usual traffic."""


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
    """Service or protocol."""
    name: str | None = None
    """Name in commands, metrics and lists. Absent: the type; the second of a type is
    `TYPE-2`."""
    url: Url | None = None
    """Address; PagerDuty and Opsgenie have a default. E-mail: `smtp://user@host:587` or
    `smtps://user@host:465`."""
    secret: Secret | tuple[Secret, ...] = ()
    """Webhook: signing secret `whsec_…` (a list of two while rotating); PagerDuty and
    Opsgenie: integration key; e-mail: password."""
    min_severity: Severity = "warning"
    """Lowest severity that is sent."""
    allow_private: bool = False
    """Allow loopback and private addresses as receivers."""
    events: tuple[str, ...] | None = None
    """Event types to send, such as `["incident.*", "client.blocked"]`. Absent: incidents
    and `gateway.*`; for a webhook also `client.blocked` and `client.unblocked`."""
    max_alerts_per_minute: Positive = 30
    """Further alerts are combined into one digest per minute; `incident.resolved` is
    always sent on its own."""
    retries: tuple[Duration, ...] | None = None
    """Pauses before each further attempt. Absent: `["5s", "5m", "30m", "2h", "5h",
    "10h", "14h", "20h", "24h"]`."""
    to: tuple[str, ...] = ()
    """E-mail: recipients."""
    sender: str | None = field(default=None, name="from")
    """E-mail: sender."""


class SilenceTable(Table, frozen=True):
    """A maintenance window: alerts that match are not sent."""

    starts: datetime = field(name="from")
    """First moment (without an offset: in `server.timezone`)."""
    ends: datetime = field(name="to")
    """End. Incidents that are still open then are alerted."""
    tenant: str = "*"
    """Its tenant; `"*"`: all."""
    cls: str = field(default="*", name="class")
    """Class of attack; `"*"`: all."""
    subject: str = "*"
    """`kind:id`, such as `client_ip:203.0.113.9`; `"*"`: all."""
    reason: str = ""
    """Reason, shown in lists."""


class KafkaTable(Table, frozen=True):
    """Records to Kafka. Not available in this version."""

    brokers: tuple[str, ...]
    """List of `host:port`."""
    topic: str = "tidegate.records"
    """Topic."""


class InfluxTable(Table, frozen=True):
    """Records to InfluxDB (docs/monitoring.md)."""

    url: Url
    """Address. With `org` or `token` the API of versions 2 and 3 is used, else that of
    version 1 (user and password in the URL)."""
    bucket: str
    """Bucket; with version 1 the database."""
    org: str = ""
    """Organisation (version 2)."""
    token: Secret | None = None
    """Token with write permission."""


class EventsTable(Table, frozen=True):
    """Destinations of the record of each finished request."""

    file: FilePath | None = None
    """File of JSON lines. Absent: `records.jsonl` in the directory of an embedded store,
    else no file; `""`: no file."""
    max_size: Size = Size(100 << 20)
    """Size at which the file is rotated to `FILE.1`."""
    keep: NotNegative = 5
    """Rotated files that are kept."""
    kafka: KafkaTable | None = None
    """Records to Kafka."""
    influx: InfluxTable | None = None
    """Records to InfluxDB."""


class Config(Table, frozen=True):
    """The whole configuration, with environment and flags applied."""

    server: ServerTable = ServerTable()
    """The port for clients."""
    admin: AdminTable = AdminTable()
    """The port for operators."""
    store: StoreTable = StoreTable()
    """Where counters are kept."""
    upstreams: tuple[UpstreamTable, ...] = field(default=(), name="upstream")
    """LLM APIs."""
    policies: dict[str, PolicyTable] = field(default_factory=dict, name="policy")
    """Policies by name."""
    tenants: tuple[TenantTable, ...] = field(default=(), name="tenant")
    """Sets of credentials under one policy."""
    campaigns: tuple[CampaignTable, ...] = field(default=(), name="campaign")
    """Planned surges."""
    alerts: tuple[AlertTable, ...] = field(default=(), name="alert")
    """Receivers of alerts."""
    silences: tuple[SilenceTable, ...] = field(default=(), name="silence")
    """Maintenance windows."""
    events: EventsTable = EventsTable()
    """Destinations of records."""
