"""The data model of the gateway as msgspec structs, without behaviour."""

from __future__ import annotations

from enum import IntEnum
from typing import Literal, get_args

import msgspec

# Prices are counted in whole nano-dollars (1e-9 USD): integers add up exactly in Redis.
NANOS_PER_USD = 1_000_000_000
# Sub-buckets of a sliding window, not counting the partly expired one.
SUB_BUCKETS = 60

Meter = Literal[
    "requests", "tokens", "prompt_tokens", "completion_tokens", "concurrent", "usd"
]
METERS: tuple[Meter, ...] = get_args(Meter)
UsageSource = Literal["upstream", "counted", "estimated", "none"]
Action = Literal["allow", "tag", "throttle", "limit", "block"]
Outcome = Literal["ok", "client_closed", "upstream_error", "timeout", "refused"]
Mode = Literal["enforce", "observe"]
# ``unmetered``: an answer without tokens and price; ``unpriced``: tokens of a model
# without a price; ``part_priced``: some unit or the service tier has no price, the rest
# is charged; ``implausible``: the stated usage was not believed; ``failed``: a fault
# of the gateway, charged as reserved; ``cut``: the client left before the usage was
# stated, or the stream outgrew its limits; charged at least as reserved; ``unread``: the
# body could not be read; ``pending``: accepted work, whose usage is in the
# record of the call that shows its end; ``reserved``: such work without a stated usage,
# charged as reserved; ``hidden``: the upstream stated no usage of a model that reasons
# unseen; charged at least as reserved.
Metering = Literal[
    "",
    "unmetered",
    "unpriced",
    "part_priced",
    "implausible",
    "failed",
    "cut",
    "unread",
    "pending",
    "reserved",
    "hidden",
]
# Classes of abuse, for which responses are taken.
AbuseClass = Literal[
    "cost_spike", "ddos", "scraping", "credential_abuse", "probing", "volume"
]
# All classes of incidents: abuse, and events that are nobody's fault.
AttackClass = Literal[AbuseClass, "surge", "outage"]


class CellKind(IntEnum):
    """How counts in the store expire."""

    SLIDING = 0  # 60 sub-buckets over window_us
    CALENDAR = 1  # one counter per calendar period; the period is part of the key
    CONCURRENT = 2  # leases with a time to live, one per open exchange


class Limit(msgspec.Struct, frozen=True):
    """One limit of a policy: subject x meter x window.

    ``per`` is a subject kind ("client_ip", "user", "tenant", "model"; "key" in the
    limits of a key; "network" in those of an IPv6 /48) or a pair joined by "+". ``amount`` is in the meter's store unit: requests, tokens, open exchanges,
    or nano-dollars. ``window_us`` is 0 for calendar windows and for ``concurrent``.
    """

    per: str
    meter: Meter
    amount: int
    window_us: int = 0
    calendar: Literal["", "day", "week", "month"] = ""
    # Only for these models (glob patterns, empty: all).
    models: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name in records, headers and messages, for example ``user.tokens.1m``."""
        if self.meter == "concurrent":
            return f"{self.per}.concurrent"
        return (
            f"{self.per}.{self.meter}.{self.calendar or format_window(self.window_us)}"
        )


def format_window(window_us: int) -> str:
    """A window in microseconds as its shortest exact text: 60_000_000 -> ``1m``,
    1_500_000 -> ``1500ms``.
    """
    for unit_us, suffix in (
        (86_400_000_000, "d"),
        (3_600_000_000, "h"),
        (60_000_000, "m"),
        (1_000_000, "s"),
        (1_000, "ms"),
    ):
        if window_us >= unit_us and window_us % unit_us == 0:
            return f"{window_us // unit_us}{suffix}"
    return f"{window_us}us"


# Units of ``Usage.units``. Those in tokens are parts of ``prompt`` or ``completion``;
# ``input_audio_tokens`` include ``cache_audio_read_tokens``. Others may have a size and a
# quality after colons, on which prices depend: ``images:1024x1792:hd``, ``images:hd``,
# ``video_seconds:1280x720``.
UNITS = frozenset(
    {
        "input_audio_tokens",
        "output_audio_tokens",
        "cache_audio_read_tokens",
        "input_image_tokens",
        "output_image_tokens",
        "cache_image_read_tokens",
        "input_video_tokens",
        "output_video_tokens",
        "cache_write_1h_tokens",
        "audio_seconds",
        "video_seconds",
        "input_characters",
        "images",
        "pages",
        "search_units",
        "classifications",
        "web_searches",
        "file_searches",
        "code_sessions",
    }
)


class Usage(msgspec.Struct, gc=False):
    """Tokens of one exchange.

    ``prompt`` includes ``cached`` and ``cache_write``, which have prices of their own.
    ``completion`` includes ``reasoning`` where the provider's count does. ``total`` is
    the provider's own total where it states one, else prompt + completion.
    """

    prompt: int = 0
    completion: int = 0
    total: int = 0
    cached: int = 0
    reasoning: int = 0
    cache_write: int = 0
    source: UsageSource = "none"
    batch: bool = False  # of a batch, which costs half
    # What is billed by other units, or at other prices, as (unit, quantity): UNITS.
    units: tuple[tuple[str, float], ...] = ()
    # What the answer states about itself ("" or None: nothing): the model that answered,
    # the service tier it ran at, and its price in US dollars.
    model: str = ""
    tier: str = ""
    cost_usd: float | None = None
    # How many answers it sums up; the prompt of each decides the context tier.
    answers: int = 1
    # The parts of it that models of tools have used, which have prices of their own.
    # Their units are not among those above.
    tools: tuple[Usage, ...] = ()


class RequestFacts(msgspec.Struct, gc=False):
    """What a dialect reads from a request for admission and metering."""

    endpoint: str
    model: str = ""
    stream: bool = False
    # The completion cap in the request; None: no cap.
    max_tokens: int | None = None
    n: int = 1
    # The user the body names (``user``, ``metadata.user_id``, ``safety_identifier``).
    user: str | None = None
    # Bytes of text that become prompt tokens (base64 payloads left out).
    prompt_bytes: int = 0
    # Prompt tokens known without text: token arrays, a flat number per image.
    prompt_tokens_known: int = 0
    # False for endpoints that cost no tokens, such as token counting.
    billable: bool = True
    # OpenAI streams: the client itself asked for the usage chunk.
    usage_asked: bool = True
    # The body has a ``stream_options`` member, which asking for usage has to edit.
    options_given: bool = False
    # A cap of 0 or less is given, which servers read as "no cap": ``max_tokens`` is None.
    endless: bool = False
    # Prompts in one request, each answered ``n / prompts`` times.
    prompts: int = 1
    # The requests of a batch, for caps; sizes and caps above are their sums.
    parts: tuple[RequestFacts, ...] = ()
    batch: bool = False
    # What it asks for in other units than tokens (``Usage.units``), as far as it says;
    # charged where the answer states nothing.
    units: tuple[tuple[str, float], ...] = ()
    # The answer may come later, to another request (``background``).
    background: bool = False
    # The service tier that it asks for (``priority``, ``fast``), in lower case; "": none.
    tier: str = ""
    # Other models that may answer instead (fallbacks).
    models: tuple[str, ...] = ()
    # Member under which a cap is written in; "": as the model's name suggests.
    cap_name: str = ""
    # The body's model where the path names another one, which answers.
    body_model: str = ""
    # Part of the prompt is not in the body: the provider keeps it, fetches it or searches
    # for it, so that no size bounds the prompt.
    outside: bool = False
    # Searches that the provider may make for it, as far as its tools say.
    searches: int = 0
    # Models that run inside its tools (advisors, pictures).
    tools: tuple[str, ...] = ()

    @property
    def named_models(self) -> tuple[str, ...]:
        """Every model that may answer."""
        return (self.model, *self.models)

    @property
    def checked_models(self) -> tuple[str, ...]:
        """Every model that it names: lists of models hold for each."""
        body = (self.body_model,) if self.body_model else ()
        return (*self.named_models, *self.tools, *body)


WHOLE, OPENED, CLOSED = range(3)
# ``RequestRecord.trace`` of a request without a span.
NO_TRACE = ""


class RequestRecord(msgspec.Struct, array_like=True, gc=False):
    """The record of one exchange, as workers send it to the control process.

    The fields up to ``outcome`` are the public record (``docs/operations.md``), in that
    order; those after it feed metrics and traces. ``ts`` is epoch seconds here, RFC 3339
    in public. Times are milliseconds, ``*_us`` microseconds.
    """

    ts: float
    request_id: str
    tenant: str
    user: str
    client_ip: str
    method: str
    path: str
    endpoint: str
    model: str
    stream: bool
    status: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    usage_source: UsageSource
    usd: float
    duration_ms: float
    ttfb_ms: float | None
    overhead_ms: float
    action: Action
    limit: str | None
    score: float
    cls: str | None  # ``class`` in public
    reasons: tuple[str, ...]
    fingerprint: str | None
    outcome: Outcome
    # -- not public ---------------------------------------------------------------
    upstream: str = ""
    check_us: float = 0.0
    score_us: float = 0.0
    store_us: float = 0.0
    # Observe mode: the action that enforcing would take ("": the same as ``action``).
    would: str = ""
    unpriced: bool = False
    usd_nanos: int = 0
    # A long exchange is reported twice: when it starts (OPENED, for detection only,
    # without an answer) and when it ends (CLOSED). All others once (WHOLE).
    phase: int = 0
    # The body would name the user but was not read: ``user`` is the credential's and
    # may be shared. Detection then attributes the request to the address only.
    unnamed: bool = False
    # Ids of the span in hex: trace (32 digits), span (16), flags (2), and the parent
    # span (16) if there is one.
    trace: str = NO_TRACE
    # Why the tokens or the price are not the provider's own statement ("": they are, or
    # nothing was billed). Public.
    metering: Metering = ""
    price_source: PriceSource = ""  # Public.
    # Name and tags of the client's key ("": it has none). Public.
    key: str = ""
    tags: tuple[str, ...] = ()


# ``Block.by``: an operator, or the detector (which never overrides an operator).
OPERATOR = "operator"
DETECTOR = "detector"
# The tenant of detector verdicts on clients without a tenant.
ANONYMOUS_TENANT = "anonymous"


class Block(msgspec.Struct, frozen=True):
    """An action on one subject until ``until`` (epoch seconds; None: until removed).

    ``tenant`` None: everywhere; ANONYMOUS_TENANT: requests without a valid credential.
    ``kind`` is client_ip, user, tenant, a CIDR ("network"), or a prompt template
    ("prompts": its fingerprint in 16 hex digits), which is refused for clients first
    seen after ``created_at``. ``action`` is the detector's decision; operators only
    block. ``rate``: requests a minute that a throttled subject may send.
    """

    kind: str
    id: str
    tenant: str | None = None
    until: float | None = None
    reason: str = ""
    created_at: float = 0.0
    by: str = OPERATOR
    action: Literal["tag", "throttle", "block"] = "block"
    cls: str = ""
    score: float = 0.0
    rate: int = 0


class Caps(msgspec.Struct, frozen=True):
    """Upper bounds of one request; None: no cap. ``clamp`` lowers instead of a 400."""

    max_tokens: int | None = None
    n: int | None = None
    body_bytes: int | None = None
    stream_s: float | None = None
    clamp: bool = False


class ModelCaps(msgspec.Struct, frozen=True):
    """Caps that replace the policy's for these models (glob patterns)."""

    models: tuple[str, ...]
    caps: Caps


class Price(msgspec.Struct, frozen=True, omit_defaults=True):
    """US dollars per million tokens of a kind; ``cached``, ``cache_write`` and
    ``cache_write_1h`` default to ``input``, and the last one to ``cache_write``.

    ``units``: dollars per million of the other units of ``Usage.units``, of
    ``requests`` and of ``reasoning_tokens``. A unit in tokens without a price costs as
    the prompt or completion tokens that it is a part of.
    """

    input: float = 0.0
    output: float = 0.0
    cached: float | None = None
    cache_write: float | None = None
    cache_write_1h: float | None = None
    units: dict[str, float] = {}
    # Complete prices of requests with more prompt tokens than this, by rising number.
    contexts: tuple[tuple[int, Price], ...] = ()
    # Complete prices by service tier ("flex", "priority", "batch", "fast").
    tiers: dict[str, Price] = {}
    # Prices that replace this one at some times; the last one in force applies.
    timed: tuple[TimedPrice, ...] = ()
    # Seconds of audio that a request is billed for, at least.
    least_seconds: float = 0.0


class TimedPrice(msgspec.Struct, frozen=True, omit_defaults=True):
    """A price from ``since`` (epoch seconds) on; ``start`` to ``end`` are seconds of the
    UTC day, past midnight if ``end`` is smaller; equal: the whole day.
    """

    price: Price
    since: float = 0.0
    start: int = 0
    end: int = 0


# Where the price of a record comes from ("": nothing was priced): the price table, the
# policy's ``prices`` or ``unknown_price``, or the answer itself (``trust_cost``).
PriceSource = Literal["", "table", "policy", "unknown_price", "answer"]


class Ladder(msgspec.Struct, frozen=True, gc=False):
    """Scores from which a subject is tagged, throttled and blocked, and for how long.

    A block lasts ``block_ttl_s`` seconds and doubles with each return, up to
    ``max_block_ttl_s``.
    """

    tag: float = 3.0
    throttle: float = 4.0
    block: float = 5.0
    block_ttl_s: float = 600.0
    max_block_ttl_s: float = 86_400.0


class Anomaly(msgspec.Struct, frozen=True):
    """Detection settings of a policy: score thresholds and actions. Times are seconds.

    ``warning`` and ``critical``: scores of these severities. ``classes``: complete
    thresholds of some classes, which replace the general ones. ``throttle_share``:
    share of its usual rate that a throttled subject keeps. ``delay_s``: longest delay of
    a throttled request (0: it is refused instead), for at most ``max_delayed`` requests
    at a time.
    """

    enabled: bool = True
    warning: float = 3.0
    critical: float = 5.0
    ladder: Ladder = Ladder()
    classes: dict[str, Ladder] = {}
    grace_s: float = 86_400.0
    max_blocked_share: float = 0.2
    throttle_share: float = 0.5
    delay_s: float = 0.0
    max_delayed: int = 100


class ModelList(msgspec.Struct, frozen=True):
    """Models that clients may use (glob patterns; ``allow`` empty: all but ``deny``)."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    # The policy's list, of the list of a key: a model must be in both.
    within: ModelList | None = None


class Policy(msgspec.Struct, frozen=True):
    """A policy with its inheritance resolved: what applies to one tenant."""

    name: str
    mode: Mode = "enforce"
    limits: tuple[Limit, ...] = ()
    caps: Caps = Caps()
    # What one token of a kind counts against token limits (default 1).
    weights: dict[str, float] = {}
    # "free", "deny", or the price of a model that the table does not know.
    unknown_price: Literal["free", "deny"] | Price = "free"
    # Prices by model name or glob; they take precedence over the packaged table.
    prices: dict[str, Price] = {}
    # Sources of the user id; the first one present is used.
    user_from: tuple[Literal["credential", "jwt", "header", "body"], ...] = (
        "credential",
        "jwt",
        "header",
        "body",
    )
    # Subjects that are never limited, scored or blocked (``identity.identify``):
    # "client_ip:203.0.113.9", "network:10.0.0.0/8", "user:alice", "tenant:acme".
    allow: tuple[str, ...] = ()
    anomaly: Anomaly = Anomaly()
    # Complete caps of some models; the first match applies, else ``caps``.
    model_caps: tuple[ModelCaps, ...] = ()
    # Share of a limit of tokens or money by which open calls may exceed it.
    overdraft: float = 0.1
    # Completion tokens that a call without a cap reserves, at least.
    assumed_max_tokens: int = 4096
    # A stream that outgrows its reservation where there is no more: let it finish, or
    # end it.
    overrun: Literal["finish", "cut"] = "finish"
    # Endpoints and models that clients may use (``proxy.access``); None: the default.
    endpoints: tuple[str, ...] | None = None
    models: ModelList | None = None
    # Of a client key: endpoints it may use, of those that the policy opens.
    key_endpoints: tuple[str, ...] | None = None
    # What all IPv6 clients (/64) of one /48 have together, as a multiple of each limit of
    # an address; 0: no limit.
    network_factor: int = 8
    # US dollars that accepted work reserves, and counts against limits, where nothing
    # says what it costs: batches of files, fine-tuning jobs, videos without a price.
    assumed_job_usd: float = 1.0
    # Tokens that a prompt is assumed to have at most beside what is in the body, where it
    # refers to more (``RequestFacts.outside``).
    assumed_context_tokens: int = 65_536


class Campaign(msgspec.Struct, frozen=True, gc=False):
    """A declared launch: ``expect`` times the baseline from ``since`` to ``to``
    (epoch seconds); ``tenant`` None: the whole service.
    """

    since: float
    to: float
    expect: float
    tenant: str | None = None


class JwtRule(msgspec.Struct, frozen=True):
    """How a tenant's JSON Web Tokens are verified; keys from a file or a URL."""

    jwks_file: str | None = None
    jwks_url: str | None = None
    issuer: str | None = None
    audience: str | None = None
    # The claim that names the user, and claim values that a token must have.
    user_claim: str = "sub"
    require: dict[str, str] = {}
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")


class HeaderRule(msgspec.Struct, frozen=True):
    """A header value, set by a trusted peer, that identifies the tenant."""

    name: str
    value: str
    user_header: str | None = None


class ApiKey(msgspec.Struct, frozen=True):
    """A client key with a name. ``hash``: ``sha256:<64 hex>``; ``expires``: epoch seconds.
    ``policy``: the tenant's or the key's, with what the key adds; None: the tenant's.
    ``networks``: where it may be used from; empty: anywhere.
    """

    name: str
    hash: str
    expires: float = float("inf")
    policy: Policy | None = None
    networks: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


class Tenant(msgspec.Struct, frozen=True):
    """A set of credentials under one policy. Without any rule: every client."""

    name: str
    policy: Policy
    # "sha256:<64 hex>" of the client's key.
    api_keys: tuple[str, ...] = ()
    jwt: JwtRule | None = None
    header: HeaderRule | None = None
    cidrs: tuple[str, ...] = ()
    keys: tuple[ApiKey, ...] = ()
