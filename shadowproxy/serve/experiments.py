"""One experiment with everything that is known of it, whatever the configuration of today says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from shadowproxy.config import Settings, experiment_id, thawed
from shadowproxy.errors import ConfigError, PayloadError
from shadowproxy.model import Accounting, VersionSeen
from shadowproxy.pairs.controls import ControlStatus
from shadowproxy.pairs.experiments import Moment, Summary, condition, history, opened, versions
from shadowproxy.report.words import plain
from shadowproxy.serve.reader import VerdictReader
from shadowproxy.verdict.record import Verdict


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the pairs that were stored."""

    pairs: int
    counted: int
    """Pairs that were committed, unreadable ones included."""
    lag: int
    """Stream entries that are not committed yet."""
    lost_pairs: int
    missing_pairs: int
    dead_pairs: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """An experiment."""

    experiment: str
    begun: float
    """Unix seconds."""
    configured: bool
    """Whether it is the one that the configuration at hand means."""
    state: str
    """As in a `Summary`."""
    controls: ControlStatus
    settings: msgspec.Raw
    """What was frozen when it began, as JSON."""
    accounting: Accounting
    stream: Stream
    versions: dict[str, tuple[VersionSeen, ...]]
    history: tuple[Moment, ...]
    """Newest first."""
    verdict: Verdict | None
    problem: str = ""
    """Why there is no verdict."""


async def report(url: str, experiment: str, configured: Settings | None) -> Report:
    """What the store at `url` has of an experiment, and the verdict, worked out anew. Writes nothing.

    The settings are `configured` where these mean it, else those that were frozen when it began: then what only holds a
    decision back (verdict.min_recorded, verdict.horizon) has its default.

    Raises Refused where there is no such experiment, StoreUnavailable, and PayloadError where nothing of it can be
    read.
    """
    try:
        return await _report(url, experiment, configured)
    except ValueError as error:
        raise PayloadError(f"what is stored of {experiment} is damaged: {error}") from None


async def _report(url: str, experiment: str, configured: Settings | None) -> Report:
    means = configured is not None and experiment_id(configured) == experiment
    async with opened(url, experiment) as one:
        home = one.store.home
        snapshot = await one.store.snapshot()
        status = await home.control_status()
        verdict, problem = None, ""
        try:
            settings = configured if configured is not None and means else thawed(one.description, experiment)
            verdict = (await VerdictReader(one.store, settings, looks_on=True).read()).verdict
        except (PayloadError, ConfigError) as error:
            problem = str(error)
        return Report(
            experiment=experiment,
            begun=one.begun,
            configured=means,
            state=condition(status),
            controls=status,
            settings=msgspec.Raw(one.description),
            accounting=snapshot.accounting,
            stream=Stream(
                pairs=snapshot.pairs,
                counted=snapshot.committed_pairs,
                lag=snapshot.pending + snapshot.undelivered,
                lost_pairs=snapshot.lost_pairs,
                missing_pairs=snapshot.missing_pairs,
                dead_pairs=snapshot.dead_pairs,
            ),
            versions=await versions(home),
            history=(await history(home)).history,
            verdict=verdict,
            problem=problem,
        )


# For people


def table(rows: Sequence[Summary]) -> list[str]:
    """Experiments as lines of equal columns; one that can't be read says why."""
    heads = ("", "experiment", "begun (UTC)", "state", "recorded", "counted", "lag", "verdict", "since (UTC)")
    cells = [heads]
    for row in rows:
        last = row.last
        cells.append(
            (
                "*" if row.configured else "",
                plain(row.experiment),
                when(row.begun),
                row.state,
                f"{row.recorded:,}",
                f"{row.counted:,}",
                f"{row.lag:,}",
                last.kind if last else "–",
                when(last.at) if last else "–",
            )
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = {"recorded", "counted", "lag"}
    lines = [
        "  ".join(
            cell.rjust(width) if head in right else cell.ljust(width)
            for head, cell, width in zip(heads, row, widths, strict=True)
        ).rstrip()
        for row in cells
    ]
    return lines + [f"{plain(row.experiment)}: {plain(row.problem)}" for row in rows if row.problem]


def summary(found: Report) -> list[str]:
    """The experiment in lines, without its verdict, its history and its settings."""
    stream = found.stream
    mark = " (the one that the configuration means)" if found.configured else ""
    pairs = (
        f"pairs: {found.accounting.recorded:,} recorded by proxies, {stream.pairs:,} stored, "
        f"{stream.counted:,} counted, {stream.lag:,} entries waiting; "
        f"{stream.lost_pairs:,} lost, {stream.missing_pairs:,} missing, {stream.dead_pairs:,} unreadable"
    )
    return [
        f"{plain(found.experiment)}: {found.state}, begun {when(found.begun)} UTC{mark}",
        found.controls.describe(history=False).removeprefix(f"{found.experiment}: "),
        pairs,
        *(
            f"version of the {plain(side)}: {plain(one.value) or 'an empty value'}, "
            f"{when(one.first)} to {when(one.last)} UTC"
            for side, seen in found.versions.items()
            for one in seen
        ),
    ]


def changes(moments: Sequence[Moment]) -> Iterator[str]:
    """The history in lines, newest first."""
    for moment in moments:
        about = "; ".join(moment.reasons) or "no reason given"
        by = f" by {moment.by}" if moment.by else ""
        yield plain(f"{when(moment.at)} UTC  {moment.kind}{by}, {moment.pairs:,} pairs: {about}")


def when(at: float) -> str:
    """Unix seconds as UTC, to the second."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
