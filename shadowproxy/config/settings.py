"""Typed settings: one frozen section per room. The descriptions here are the documentation; the schema carries them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from shadowproxy.config.catalogue import GUARDABLE
from shadowproxy.config.expressions import Expression
from shadowproxy.config.fields import Fields
from shadowproxy.config.headers import HeaderName, HeaderValue
from shadowproxy.config.judging import Guardrail, Verdict
from shadowproxy.config.presets import EXTRACTED, PRESETS, with_preset
from shadowproxy.config.redaction import Redact
from shadowproxy.config.section import Section
from shadowproxy.config.serving import File, Serve, ServerTls, exposures, needs_certificate
from shadowproxy.config.shaping import Credentials, CredentialsOrWord, HeaderEdits, Host, JsonFields, Rewrite
from shadowproxy.config.store_url import parse_store_url
from shadowproxy.config.units import Address, Count, Duration, HttpUrl, Listen, Name, Probability, Share, Size, Workers
from shadowproxy.config.validity import Rule, named
from shadowproxy.errors import Fault
from shadowproxy.model import Side


def _reads_response(expression: str | None) -> bool:
    return expression is not None and re.search(r"\bresponse\b", expression) is not None


class UpstreamTls(Section):
    """How an upstream whose URL is https is verified, and what is shown to it. Files are PEM."""

    ca: File | None = Field(None, description="who may have signed its certificate, instead of the system's store")
    certificate: File | None = Field(None, description="shown to it, where it asks for one")
    key: File | None = Field(None, description="of that certificate; none: it stands in the same file")
    server_name: str | None = Field(
        None, pattern=r"^[0-9A-Za-z_][0-9A-Za-z_.:-]{0,252}$", description="whom to expect; none: the URL's host"
    )
    verify: bool = Field(True, description="false: whoever answers is believed; for a trial only")

    @field_validator("key")
    @classmethod
    def _of_a_certificate(cls, key: str | None, info: ValidationInfo) -> str | None:
        return needs_certificate(key, info)


class Health(Section):
    """A request that tells whether an address of the upstream works."""

    path: str | None = Field(
        None, pattern=r"^/[\x21-\x7e]*$", description="asked with GET; 200 to 399 is healthy; none: nothing is asked"
    )
    every: Duration = Field(10.0, gt=0, description="between two requests to one address")
    timeout: Duration = Field(2.0, gt=0, description="for connection and answer together")
    failures: Count = Field(2, description="in a row, before an address is put aside; one success takes it back")


class Upstream(Section):
    """One service: the baseline, the candidate or the replica. A plain URL stands for `{url: URL}`."""

    url: HttpUrl = Field(description="where it answers; a path here is put before the request's own")
    connect_timeout: Duration = Field(2.0, gt=0, description="for making a connection")
    deadline: Duration = Field(10.0, gt=0, description="from the request's start to the last byte of the response")
    max_idle: Annotated[int, Field(ge=0)] = Field(64, description="idle connections kept open, by all workers together")
    idle_timeout: Duration = Field(30.0, gt=0, description="an idle connection is closed after this")
    resolve_every: Duration = Field(
        30.0, gt=0, description="the host's addresses are looked up again after this; new connections go to all in turn"
    )
    health: Health = Health()
    tls: UpstreamTls = UpstreamTls()
    host: Host | None = Field(
        None, description="Host header: the URL's own unless given, `client` for the client's, or a literal"
    )
    rewrite: tuple[Rewrite, ...] = Field((), description="of the path, before that of `url` is put before it")
    headers: HeaderEdits = HeaderEdits()
    credentials: CredentialsOrWord = Field(
        Credentials(), description="what it gets of the client's credentials: keep, remove, or {authorization: ...}"
    )
    json_fields: JsonFields = Field(
        default_factory=dict,
        description="path: value, set in JSON request bodies, such as `model: v2`; missing objects are made. A body "
        "that is streamed (over proxy.mirror.max_body) or can't be read goes out as it came, and is counted",
    )

    @field_validator("tls")
    @classmethod
    def _of_https(cls, tls: UpstreamTls, info: ValidationInfo) -> UpstreamTls:
        if tls != UpstreamTls() and info.data.get("url", "https://").startswith("http://"):
            raise ValueError("the URL is http: write https, or take this out")
        return tls


def _upstream(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


UpstreamOrUrl = Annotated[
    Upstream,
    BeforeValidator(_upstream, json_schema_input_type=HttpUrl | Upstream),
]


def _methods(methods: tuple[str, ...]) -> tuple[str, ...]:
    for method in methods:
        if not re.fullmatch(r"[A-Z]+", method):
            raise ValueError(f"{method!r} is not a method: write it in capitals, such as POST")
    return methods


Methods = Annotated[tuple[str, ...], AfterValidator(_methods)]
SampleBy = Annotated[
    str,
    Field(
        pattern=r"^(request_id|(header|cookie):[!#$%&'*+.^_`|~0-9A-Za-z-]+|query:[!$'()*+,./:;?@A-Z_a-z0-9~%\[\]-]+)$"
    ),
]


class MirrorRoute(Section):
    """What holds for the requests under one path. A key that is not given is that of `proxy.mirror`."""

    path: str = Field(
        pattern=r"^/",
        description="glob over the request's path: `*` within a segment, `**` or a final `/*` across",
    )
    enabled: bool | None = Field(None, description="false: live-only, skipped{reason=route}; true: mirrored")
    sample: Share | None = Field(None, description="share of these requests that are mirrored")
    sample_by: SampleBy | None = Field(None, description="what is hashed for it")
    methods: Methods | None = Field(None, description="methods that are mirrored here")


class Breaker(Section):
    """When a shadow upstream is no longer asked for a while. Each (candidate, replica) has a breaker of its own,
    in each of several workers.

    A copy that is not made for it is recorded as the candidate's failure (`shed`), as it would be without a breaker: a
    candidate that is gone for T seconds may so be held responsible for 2 T. So it opens late, and only on what is no
    answer at all; an answer of any status is an answer.
    """

    enabled: bool = Field(True, description="false: every copy is tried, whatever became of those before")
    failures: Count = Field(
        20, description="it opens after so many failures in a row: timeout, connect, reset or protocol, not a status"
    )
    open_for: Duration = Field(1.0, gt=0, description="the first time that it stays open; twice that the next time")
    open_at_most: Duration = Field(30.0, gt=0, description="the longest time that it stays open")
    probes: Count = Field(3, description="copies that are then let through: all well closes it, one failure opens it")

    @field_validator("open_at_most")
    @classmethod
    def _not_below(cls, most: float, info: ValidationInfo) -> float:
        first = info.data.get("open_for")
        if first is not None and most < first:
            raise ValueError(f"{most:g} s is less than `open_for`, {first:g} s")
        return most


class Mirror(Section):
    """What is copied to the candidate, and how much the copies may cost."""

    enabled: bool = Field(True, description="false: proxy only, but for `routes` that say otherwise")
    sample: Share = Field(
        1.0, description="share of requests that are mirrored, by hash of `sample_by`; `shadowproxy sample` replaces it"
    )
    sample_by: SampleBy = Field(
        "request_id",
        description="`request_id`; or `header:NAME`, `cookie:NAME` or `query:NAME`, to keep one account in or out as a "
        "whole (a request without it goes by its id)",
    )
    methods: Methods = Field(("GET", "POST"), description="methods that are mirrored; others are live-only")
    max_in_flight: Count = Field(
        256, description="copies under way at once, each side; past it the copy is shed and recorded as such"
    )
    max_in_flight_bytes: Size = Field(
        64 * 1024**2,
        ge=1,
        description="memory, each side, for copies under way and for answers that wait for them; past it the copy is "
        "shed and recorded as such",
    )
    max_body: Size = Field(1024**2, description="a larger request is live-only, skipped{reason=request_too_large}")
    breaker: Breaker = Breaker()
    routes: tuple[MirrorRoute, ...] = Field((), description="other rules by path; the first that matches is taken")


class Limits(Section):
    """What a client may ask of the listener."""

    target: Size = Field(8192, description="longest request target; longer is 414")
    header_bytes: Size = Field(65536, description="largest header section; larger is 431")
    header_count: Count = Field(128, description="most header fields; more is 431")
    header_timeout: Duration = Field(10.0, gt=0, description="for a whole request head to come; then 408")
    body: Size = Field(256 * 1024**2, description="largest request body; larger is 413")
    idle_timeout: Duration = Field(75.0, gt=0, description="an idle client connection is closed after this")
    tunnel_timeout: Duration = Field(
        3600.0, gt=0, description="a tunnel (Upgrade, as of a WebSocket) through which nothing came is cut after this"
    )
    connections: Count = Field(4096, description="client connections at once; more are answered 503")


class ListenerTls(ServerTls):
    """TLS towards clients, where there is a certificate. Files are PEM; when they change they are read anew."""

    client_ca: File | None = Field(
        None, description="who must have signed the certificate of every client; none: clients show none"
    )

    @field_validator("client_ca")
    @classmethod
    def _beside_a_certificate(cls, file: str | None, info: ValidationInfo) -> str | None:
        return needs_certificate(file, info)


class Proxy(Section):
    """The data plane."""

    listen: Listen = Field(Address("127.0.0.1", 8080), description="where clients connect")
    admin: Listen = Field(Address("127.0.0.1", 9101), description="/metrics, /healthz and /readyz of the proxy")
    workers: Workers = Field(
        1,
        description="processes that share the port; `auto`: one per CPU that may be used (by affinity, not by quota). "
        "Limits on what is held or under way are for all of them together: each has an equal share, rounded up",
    )
    capture: Size = Field(1024**2, description="bytes of a body that are recorded; longer ones keep size and digest")
    tls: ListenerTls = ListenerTls()
    mirror: Mirror = Mirror()
    limits: Limits = Limits()
    redact: Redact = Redact()
    annotation_header: str = Field(
        "x-shadow-annotations",
        pattern=r"^[!#$%&'*+.^_`|~0-9a-z-]+$",
        description="JSON, base64url: recorded with the pair, never forwarded",
    )
    marker_header: str = Field(
        "x-shadow-request",
        pattern=r"^[!#$%&'*+.^_`|~0-9a-z-]+$",
        description="set to 1 on the candidate's copy, never on the client's own request",
    )
    grace: Duration = Field(15.0, description="how long a stop waits for what is under way")


class Spool(Section):
    """Where pairs wait on disk while Redis doesn't take them, and outlive their process.

    One directory may serve any number of proxies. A directory that can't be written to stops nobody: pairs then wait
    in memory alone.
    """

    dir: str | None = Field(
        None, min_length=1, description="a directory that outlives the process; null: `spool` in `redis.data_dir`"
    )
    max_bytes: Size = Field(
        256 * 1024**2, description="for all that lies in it, whichever proxy wrote it; 0: no spool, memory only"
    )


class Recorder(Section):
    """From the proxy to the stream."""

    batch: Annotated[int, Field(ge=1, le=10_000)] = Field(100, description="pairs in one stream entry, at most")
    linger: Duration = Field(0.1, description="a batch waits no longer than this for more pairs")
    max_bytes: Size = Field(
        64 * 1024**2,
        ge=1,
        description="memory for pairs that wait for Redis; over half of it they go to the spool, and past it the "
        "newest are dropped",
    )
    compression: Annotated[int, Field(ge=0, le=19)] = Field(
        0,
        description="zstd level of batches in Redis; 0: none, the least CPU. 1 takes a third of the memory and the "
        "network, or less, for about 15 µs of CPU per pair of 5 KB. What is spooled is always compressed",
    )
    spool: Spool = Spool()


class Redis(Section):
    """The store. Without a URL an embedded Valkey starts (extra `embedded`)."""

    url: str | None = Field(
        None,
        repr=False,
        description="redis://[user:password@]host:port/db, unix:///path, redis+sentinel://host:port,…/SERVICE/db or "
        "redis+cluster://host:port,…; rediss… for TLS, with ssl_ca_certs and the like as query parameters (see "
        "docs/stores.md); `${VAR}` keeps secrets out of the file",
    )
    data_dir: str = Field(
        ".shadowproxy",
        min_length=1,
        description="where the embedded server keeps its data and socket, and a proxy its spool",
    )
    partitions: Annotated[int, Field(ge=1, le=1024)] = Field(
        1,
        description="streams that the pairs are spread over, each with a state of its own; with a Cluster several "
        "times its masters. A change starts a new experiment",
    )
    max_entries: Count = Field(
        100_000, description="entries the streams hold at most; the oldest are trimmed and reported as lost"
    )
    max_bytes: Size = Field(
        1024**3, ge=1024**2, description="bytes of pairs the streams hold at most; the oldest are trimmed likewise"
    )
    keep: Size = Field(
        64 * 1024**2,
        description="bytes of pairs kept after they were counted, for `shadowproxy pairs`; they go first where room is "
        "needed",
    )
    max_labels: Count = Field(
        100_000,
        description="in each partition: labels in the stream, pairs that wait for their label, and labels that wait "
        "for their pair, so many of each; what is past it is counted",
    )

    @field_validator("url")
    @classmethod
    def _kind(cls, url: str | None) -> str | None:
        if url is not None:
            parse_store_url(url)
        return url


class Route(Section):
    """How to find things in the requests and answers under a path.

    Expressions are JMESPath over `{request: {method, path, query, headers, body}, response: {status, headers, body},
    annotations}`; `response` is each upstream's own.
    """

    name: Name
    path: str = Field(
        "/*",
        pattern=r"^/",
        description="glob over the request's path: `*` within a segment, `**` or a final `/*` across",
    )
    preset: str | None = Field(
        None,
        description="the protocol that the services speak: how bodies are read, and what is looked for where the route "
        "doesn't say",
    )
    ids: Expression | None = Field(None, description="the ranked items' ids, best first")
    scores: Expression | None = Field(
        None,
        description="their scores, in the same order; without `ids` the items are the places (0, 1, …), as with a "
        "service that scores the instances it is sent",
    )
    label: Expression | None = Field(
        None, description="the predicted class; a list of them where a request holds several instances"
    )
    probabilities: Expression | None = Field(
        None,
        description="{label: probability}, or a list of them by class number; a list of either where a request holds "
        "several instances",
    )
    text: Expression | None = Field(None, description="the text that was generated")
    finish: Expression | None = Field(None, description="why the text ends, such as `stop` or `length`")
    truth: Expression | None = Field(
        None,
        description="the ids (or {id: gain}) that a right answer holds, or the right label (or labels); of a "
        "route with both lists and labels an object is of the lists, and anything else of the labels",
    )
    labels: Duration | None = Field(
        None,
        gt=0,
        description="how long, from its start, a pair for which `truth` finds nothing waits for a label that says it "
        "(POST /api/v1/labels); none: it waits for none",
    )
    account: Expression | None = Field(None, description="who asks; extracted, and not judged yet")
    cohorts: dict[Name, Expression] = Field(
        default_factory=dict,
        description="dimension: expression over the request or the annotations, never the response",
    )
    weight: Expression | None = Field(
        None,
        description="how much a pair counts, a number from 0 (not at all) to 1; over the request or the annotations, "
        "never the response; 1 where it is no number",
    )
    k: Count = Field(10, description="depth of overlap@k, NDCG@k and recall@k")
    rbo_p: Probability = Field(0.9, description="persistence of rank-biased overlap")
    slow: Duration | None = Field(
        None, gt=0, description="an answer later than this is slow (latency.total_slow, latency.total_over)"
    )
    fields: Fields | None = Field(None, description="how the rest of the JSON is compared; none: it isn't")
    valid: tuple[Rule, ...] | None = Field(None, description="what must hold of any single answer, whoever gave it")

    # Field validators, not one for the whole: each names its own key, and still runs when another key is at fault.
    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        return with_preset(given) if isinstance(given, Mapping) else given

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, preset: str | None) -> str | None:
        if preset is not None and preset not in PRESETS:
            raise ValueError(f"there is no preset {preset!r}; there are {', '.join(PRESETS)}")
        return preset

    @field_validator("truth")
    @classmethod
    def _compared_with(cls, truth: str | None, info: ValidationInfo) -> str | None:
        keys = ("ids", "scores", "label", "probabilities")
        if truth is not None and all(info.data.get(key, ...) is None for key in keys):
            raise ValueError(f"`truth` needs one of {', '.join(f'`{key}`' for key in keys)} to be compared with")
        return truth

    @field_validator("labels")
    @classmethod
    def _need_answers(cls, labels: float | None, info: ValidationInfo) -> float | None:
        if labels is not None and all(info.data.get(key, ...) is None for key in ("ids", "label", "probabilities")):
            raise ValueError("`labels` needs `ids`, `label` or `probabilities` to be compared with")
        return labels

    @field_validator("scores", "label", "probabilities", "text", "finish")
    @classmethod
    def _depends_on_the_answer(cls, found: str | None, info: ValidationInfo) -> str | None:
        ids = info.data.get("ids")
        if info.field_name != "scores" and found is not None and not _reads_response(found):
            raise ValueError("it doesn't read the response: both sides would always have the same")
        if info.field_name == "scores" and (ids or found) and not any(map(_reads_response, (ids, found))):
            raise ValueError("neither `ids` nor `scores` reads the response: the rankings would always agree")
        return found

    @field_validator("finish")
    @classmethod
    def _ends_a_text(cls, finish: str | None, info: ValidationInfo) -> str | None:
        if finish is not None and info.data.get("text", ...) is None:
            raise ValueError("`finish` needs `text`: it says why that ends")
        return finish

    @field_validator("valid")
    @classmethod
    def _named(cls, rules: tuple[Rule, ...] | None) -> tuple[Rule, ...] | None:
        return named(rules) if rules else None

    @field_validator("cohorts")
    @classmethod
    def _outcome_free(cls, cohorts: dict[str, str]) -> dict[str, str]:
        for name, expression in cohorts.items():
            if _reads_response(expression):
                raise ValueError(f"{name!r} reads the response: a cohort must not depend on the outcome")
        return cohorts

    @field_validator("weight")
    @classmethod
    def _known_before(cls, weight: str | None) -> str | None:
        if weight is not None and _reads_response(weight):
            raise ValueError("it reads the response: how much a pair counts must not depend on the outcome")
        return weight

    @property
    def offers(self) -> frozenset[str]:
        """What the route extracts, in the words of `Metric.needs`."""
        given = {what for what in (*EXTRACTED, "truth", "slow", "fields", "valid") if getattr(self, what) is not None}
        if self.scores is not None:
            given.add("ids")
        if self.labels is not None:
            given.add("truth")
        return frozenset(given)


class Comparator(Section):
    """The worker that reads pairs, compares, accumulates and commits."""

    admin: Listen = Field(Address("127.0.0.1", 9102), description="/metrics, /healthz and /readyz of the comparator")
    read: Annotated[int, Field(ge=1, le=1000)] = Field(20, description="stream entries taken at once")
    claim_idle: Duration = Field(15.0, gt=0, description="entries of a worker silent for this long are taken over")
    grace: Duration = Field(15.0, description="how long a stop waits for the batch under way")
    worst: Annotated[int, Field(ge=0, le=1000)] = Field(
        10,
        description="pairs with the greatest loss that are kept to be looked at, of each guardrail and cohort; 0: none",
    )
    sample: Annotated[int, Field(ge=0, le=10_000)] = Field(
        100, description="pairs kept beside these by chance, each as likely as any other; 0: none"
    )
    exemplar_bytes: Size = Field(
        32 * 1024**2,
        gt=0,
        description="what both may take of the store, for each comparator process; then fewer are kept",
    )


def _traces(endpoint: str) -> str:
    return endpoint if urlsplit(endpoint).path else f"{endpoint}/v1/traces"


class Tracing(Section):
    """Spans of mirrored requests, for a collector that speaks OTLP over HTTP (extra `otlp`)."""

    endpoint: Annotated[HttpUrl, AfterValidator(_traces)] | None = Field(
        None,
        description="such as http://127.0.0.1:4318, which stands for that with /v1/traces; none: no spans are made",
    )
    headers: dict[HeaderName, HeaderValue] = Field(
        default_factory=dict, repr=False, description="sent with them: `authorization: Bearer ${TOKEN}`"
    )
    sample: Share = Field(
        0.01,
        description="share of the mirrored requests that get spans, of those without a trace of their own; a client's "
        "trace goes by its own `sampled` flag",
    )
    rate: Count = Field(
        100,
        description="requests in a second that get spans at the most, by all workers together: clients that trace all "
        "of their requests would slow down the proxy else",
    )
    service_name: str = Field("shadowproxy", min_length=1, description="whose spans they are (service.name)")
    timeout: Duration = Field(10.0, gt=0, description="for the collector to take them, with all attempts")


class Settings(Section):
    """A whole configuration."""

    experiment: Name = Field("default", description="name; a change of what must not change starts a new one under it")
    baseline: UpstreamOrUrl = Field(description="the service in use; its answer goes to the client")
    candidate: UpstreamOrUrl = Field(description="the service under test; its answer is only recorded")
    replica: UpstreamOrUrl | None = Field(
        None,
        description="a second instance of the baseline's model: how much the baseline differs from itself is noise",
    )
    proxy: Proxy = Proxy()
    recorder: Recorder = Recorder()
    redis: Redis = Redis()
    routes: tuple[Route, ...] = Field((), description="the first whose path matches is taken")
    comparator: Comparator = Comparator()
    verdict: Verdict = Verdict()
    serve: Serve = Serve()
    tracing: Tracing = Tracing()
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _coherent(self) -> Settings:
        faults = contradictions(dict(self))
        if faults:
            raise ValueError("; ".join(map(str, faults)))
        return self

    @property
    def longest_wait(self) -> float | None:
        """The longest that a pair of any route waits for its label, seconds; None where none does."""
        return max((route.labels for route in self.routes if route.labels is not None), default=None)

    @property
    def tls_files(self) -> bool:
        """Whether a proxy reads keys or certificates from files, which may be exchanged while it runs."""
        upstreams = [side for side in (self.baseline, self.candidate, self.replica) if side is not None]
        return self.proxy.tls.certificate is not None or any(
            side.url.startswith("https:") and bool(side.tls.ca or side.tls.certificate) for side in upstreams
        )

    @property
    def upstreams(self) -> Mapping[Side, Upstream]:
        """Those that there are."""
        sides = {Side.BASELINE: self.baseline, Side.CANDIDATE: self.candidate, Side.REPLICA: self.replica}
        return {side: upstream for side, upstream in sides.items() if upstream is not None}

    @property
    def longest_deadline(self) -> float:
        """The longest any exchange of a pair may take, seconds."""
        return max(upstream.deadline for upstream in self.upstreams.values())


def risks(settings: Settings) -> list[str]:
    """What works and is hardly meant, one sentence each."""
    return [
        f"{side}.tls.verify is false: whoever answers at {upstream.url} is believed, and gets all requests; "
        f"give {side}.tls.ca instead"
        for side in ("baseline", "candidate", "replica")
        if (upstream := getattr(settings, side)) is not None and not upstream.tls.verify
    ] + exposures(settings.serve)


def contradictions(parts: Mapping[str, Any]) -> list[Fault]:
    """What can't be true together, over those sections (by their key) that are valid by themselves."""
    faults = []
    if "routes" in parts:
        names = [route.name for route in parts["routes"]]
        for at, name in enumerate(names):
            if name in names[:at]:
                faults.append(Fault(f"$.routes[{at}].name", f"the name {name!r} is taken by route {names.index(name)}"))
        faults += _unfounded(parts["routes"])
        if "verdict" in parts:
            faults += _unmeasurable(parts["routes"], parts["verdict"].guardrails)
            faults += _unreplicated(parts.get("replica"), parts["verdict"].guardrails)
            if parts["verdict"].first_per_account:
                faults += _no_firsts(parts["routes"], parts.get("redis"))
    listeners = {
        f"$.{room}.{key}": getattr(parts[room], key)
        for room, key in (
            ("proxy", "listen"),
            ("proxy", "admin"),
            ("comparator", "admin"),
            ("serve", "listen"),
        )
        if room in parts
    }
    taken: dict[Address, str] = {}
    for path, address in listeners.items():
        if address.port and address in taken:
            faults.append(Fault(path, f"{address} is taken by {taken[address]}"))
        taken.setdefault(address, path)
    if "proxy" in parts and parts["proxy"].listen.port:
        listen = parts["proxy"].listen
        for side in ("baseline", "candidate", "replica"):
            upstream = parts.get(side)
            if upstream is not None and urlsplit(upstream.url).netloc == str(listen):
                faults.append(
                    Fault(f"$.{side}.url", f"{listen} is where the proxy itself listens: it would call itself")
                )
    if "proxy" in parts and "verdict" in parts:
        header = parts["verdict"].version_header
        if header is not None and parts["proxy"].redact.headers.get(header) == "drop":
            faults.append(
                Fault("$.verdict.version_header", f"{header} is dropped by proxy.redact: keep it there, or hash it")
            )
    if "proxy" in parts:
        ours = {parts["proxy"].marker_header, parts["proxy"].annotation_header}
        for side in ("baseline", "candidate", "replica"):
            for name in sorted(ours & parts[side].headers.edited) if parts.get(side) is not None else ():
                faults.append(Fault(f"$.{side}.headers", f"{name} is the proxy's own and can't be set or removed"))
    return faults


def _unmeasurable(routes: Sequence[Route], guardrails: Sequence[Guardrail]) -> list[Fault]:
    faults = []
    names = {route.name for route in routes}
    for at, guardrail in enumerate(guardrails):
        path = f"$.verdict.guardrails[{at}]"
        unknown = [name for name in guardrail.routes if name not in names]
        faults += [Fault(f"{path}.routes", f"there is no route {name!r}") for name in unknown]
        needs = GUARDABLE[guardrail.metric].needs
        chosen = [route for route in routes if not guardrail.routes or route.name in guardrail.routes]
        if needs and not unknown and not any(needs <= route.offers for route in chosen):
            what = " and ".join(f"`{need}`" for need in sorted(needs))
            faults.append(Fault(f"{path}.metric", f"{guardrail.metric} needs {what}, which no route of it gives"))
    return faults


def _unfounded(routes: Sequence[Route]) -> list[Fault]:
    return [
        Fault(
            f"$.routes[{at}].valid[{place}].{rule.kind}",
            f"it is about the route's `{rule.needs}`, and there are none: give the route that key",
        )
        for at, route in enumerate(routes)
        for place, rule in enumerate(route.valid or ())
        if rule.needs is not None and getattr(route, rule.needs) is None
    ]


def _unreplicated(replica: Upstream | None, guardrails: Sequence[Guardrail]) -> list[Fault]:
    return [
        Fault(f"$.verdict.guardrails[{at}].metric", f"{guardrail.metric} needs a `replica`, and there is none")
        for at, guardrail in enumerate(guardrails)
        if replica is None and GUARDABLE[guardrail.metric].replicated
    ]


def _no_firsts(routes: Sequence[Route], redis: Redis | None) -> list[Fault]:
    """Why it can't be told which pair is an account's first, or what it comes to."""
    faults = [
        Fault(f"$.routes[{at}].labels", "labels that come later can't be counted with verdict.first_per_account")
        for at, route in enumerate(routes)
        if route.labels is not None
    ]
    if not any(route.account is not None for route in routes):
        faults.append(Fault("$.verdict.first_per_account", "no route has `account`, so nobody's pair is the first"))
    if redis is not None and redis.partitions > 1:
        faults.append(
            Fault(
                "$.verdict.first_per_account",
                "needs redis.partitions: 1, since an account's pairs are spread over all partitions",
            )
        )
    return faults
