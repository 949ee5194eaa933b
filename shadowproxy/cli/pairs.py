"""Looking at pairs: the newest, one of them, those that can't be read, and all of them in a file."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shadowproxy.cli.common import (
    EXIT_UNREACHABLE,
    Config,
    Json,
    fail,
    log_to_stderr,
    read_settings,
    run_loop,
)
from shadowproxy.errors import StoreUnavailable

if TYPE_CHECKING:
    from shadowproxy.children import Stop
    from shadowproxy.model import Pair
    from shadowproxy.pairs.partitions import Partitions
    from shadowproxy.pairs.reading import Batch, Reading, Tally

EXIT_NOT_THERE = 1

app = typer.Typer(
    no_args_is_help=True,
    help="Look at the pairs in the store: those that wait, and those kept after they were counted.",
)

Count = Annotated[int, typer.Option("-n", min=0, max=1_000_000, help="How many.")]


def undo(head: bytes, body: bytes) -> bytes | None:
    """A body without its content codings; None where they can't be undone, or it was cut within one."""
    from shadowproxy.encodings import EncodingError, decoded

    try:
        found = decoded(head, body)
    except EncodingError:
        return None
    return found.data


@app.command()
def tail(
    config: Config,
    count: Count = 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, as `pairs export` writes.")] = False,
) -> None:
    """Print the newest pairs, a line each: time, id, request, and how each side answered.

    [bold]Example[/bold]: shadowproxy pairs tail --config config/minimal.yaml -n 20 --follow
    """

    async def work(store: Partitions, stop: Stop) -> None:
        from shadowproxy.pairs.reading import Reading, newest

        reading = Reading(store, positions=await newest(store, count))
        async for batch in _batches(reading, stop, follow):
            for line in _lines(batch, as_json):
                typer.echo(line)
            sys.stdout.flush()
        _say_what_was_missed(reading.tally)
        if not reading.tally.pairs and count:
            say(f"no pairs of the experiment {store.name} are in the store")

    look(config, work)


async def _batches(reading: Reading, stop: asyncio.Event, follow: bool) -> AsyncGenerator[Batch, None]:
    async with contextlib.aclosing(reading.stored()) as stored:
        async for batch in stored:
            yield batch
            if stop.is_set():
                return
    if follow:
        async with contextlib.aclosing(reading.followed(stop)) as followed:
            async for batch in followed:
                yield batch


def _lines(batch: Batch, as_json: bool) -> Iterator[str]:
    from shadowproxy.report.pair import summary

    for position, pair in enumerate(batch.pairs, batch.first):
        yield _json(batch.partition, batch.entry, position, pair) if as_json else summary(pair, when(pair.started))


def _json(partition: int, entry: str, position: int, pair: Pair) -> str:
    from shadowproxy.pairs.lines import line_of
    from shadowproxy.report.words import plain_json

    line = line_of(pair, partition=partition, entry=entry, position=position, undo=undo)
    return plain_json(line.decode())


def when(started: float) -> str:
    """A time as it is shown: UTC, to the millisecond."""
    try:
        return datetime.fromtimestamp(started, UTC).isoformat(" ", "milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{started:g}"


@app.command()
def show(
    config: Config,
    id_: Annotated[str, typer.Argument(metavar="ID", help="The request id (X-Request-Id), as `pairs tail` shows it.")],
    as_json: Json = False,
    raw: Annotated[bool, typer.Option("--raw", help="Bodies as they came: codings and JSON left as they are.")] = False,
) -> None:
    """Show one pair side by side: request, answers, timings, and what differs. Exit code 1 if it isn't there.

    [bold]Example[/bold]: shadowproxy pairs show 0b9f6f0c2f4e4c55 --config config/minimal.yaml
    """

    async def work(store: Partitions, stop: Stop) -> None:
        from shadowproxy.pairs.reading import Reading
        from shadowproxy.processes import EXIT_AT_ONCE
        from shadowproxy.report.pair import pair_view
        from shadowproxy.report.words import plain

        reading = Reading(store)
        found: tuple[Pair, Batch, int] | None = None
        seen = 0
        async for batch in _batches(reading, stop, follow=False):
            for position, pair in enumerate(batch.pairs, batch.first):
                if pair.id == id_:
                    found, seen = (pair, batch, position), seen + 1
        _say_what_was_missed(reading.tally)
        if found is None and stop.is_set():
            fail("stopped before all pairs were looked at", EXIT_AT_ONCE)
        if found is None:
            from shadowproxy.serve.exemplars import ExemplarReader

            kept = await ExemplarReader(store, read_settings(config)).find(id_)
            if not kept:
                fail(
                    f"no pair {plain(id_)} among the {reading.tally.pairs:,} in the store, nor among the exemplars; it "
                    "was never recorded, or is no longer kept (redis.keep)",
                    EXIT_NOT_THERE,
                )
            exemplar, pair = kept[-1]
            seen, place = len(kept), (exemplar.partition, exemplar.entry, exemplar.position)
        else:
            pair, batch, position = found
            place = (batch.partition, batch.entry, position)
        if seen > 1:
            say(f"{seen:,} pairs have this id; this is the newest")
        if as_json:
            typer.echo(_json(*place, pair))
            return
        from rich.console import Console

        where = "partition {}, entry {}, pair {}".format(*place)
        Console(highlight=False).print(pair_view(pair, when(pair.started), where, raw=raw))

    look(config, work)


@app.command("dead-letters")
def dead_letters(
    config: Config,
    count: Annotated[int, typer.Option("-n", min=1, max=10_000, help="How many.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    raw: Annotated[
        Path | None, typer.Option("--raw", metavar="DIR", help="Write the payloads there, a file each.")
    ] = None,
) -> None:
    """Print the newest entries that a comparator could not read, newest first, and why.

    [bold]Example[/bold]: shadowproxy pairs dead-letters --config config/minimal.yaml --raw /tmp/letters
    """

    async def work(store: Partitions, stop: Stop) -> None:
        import msgspec

        from shadowproxy.report.words import plain, plain_json, size

        letters = []
        for partition in store.stores:
            for entry, reason in await partition.dead_letters(count):
                milliseconds, _, sequence = entry.id.partition("-")
                letters.append((int(milliseconds), int(sequence), partition.partition, entry, reason))
            letters.sort(key=lambda letter: letter[:3], reverse=True)
            del letters[count:]
        for written, _, number, entry, reason in letters:
            file = None if raw is None else _write_letter(raw, f"{number}-{entry.id}.bin", entry.payload)
            if as_json:
                row: dict[str, Any] = {
                    "partition": number,
                    "entry": entry.id,
                    "written": written / 1000,
                    "pairs": entry.pairs,
                    "bytes": len(entry.payload),
                    "reason": reason,
                }
                typer.echo(plain_json(msgspec.json.encode(row if file is None else row | {"file": str(file)}).decode()))
                continue
            typer.echo(
                f"{when(written / 1000)}  partition {number}  entry {entry.id}  {_counted(entry.pairs, 'pair')}  "
                f"{size(len(entry.payload))}  {plain(reason)}" + ("" if file is None else f"  {file}")
            )
        if not letters:
            say(f"there are no dead letters in the experiment {store.name}")

    look(config, work)


def _write_letter(folder: Path, name: str, payload: bytes) -> Path:
    path = folder / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Recorded bodies are personal data.
        with os.fdopen(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
            file.write(payload)
    except OSError as error:
        fail(f"{path}: can't be written: {error.strerror}; choose another place")
    return path


@app.command()
def export(
    config: Config,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A file (.jsonl, .jsonl.gz, .jsonl.zst, .parquet), or a Delta table (.delta): a directory or URL.",
        ),
    ],
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="jsonl|parquet|delta", help="Where the name doesn't say.", show_default=False),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    for_: Annotated[
        str | None,
        typer.Option("--for", metavar="DURATION", help="Follow for so long, such as 10m.", show_default=False),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Pairs to write at most.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
) -> None:
    """Write the pairs into a file, or append those that are new to a Delta table. Nothing is taken from the store.

    A file appears when it is complete; Ctrl-C completes it with what was read. What was deleted before it was read is
    counted and said at the end.

    [bold]Example[/bold]: shadowproxy pairs export pairs.parquet --config config/minimal.yaml
    """
    from shadowproxy.config.units import parse_duration
    from shadowproxy.pairs.export import Format, format_of, sink_for
    from shadowproxy.pairs.export import export as write

    try:
        seconds = math.inf if for_ is None else parse_duration(for_)
    except ValueError as error:
        fail(f"--for: {error}")
    if form is not None and form not in set(Format):
        fail(f"--format: there is no format {form!r}; there are {', '.join(Format)}")
    target = format_of(file) if form is None else Format(form)

    async def work(store: Partitions, stop: Stop) -> None:
        from shadowproxy.pairs.reading import Reading, described

        sink = sink_for(file, target, store.name, undo, overwrite=overwrite)
        reading = Reading(store, positions=sink.positions(len(store.stores)))
        if math.isfinite(seconds):
            asyncio.get_running_loop().call_later(seconds, stop.set)
        with _progress(lambda: reading.tally.size) as progress:
            written = await write(
                reading, sink, stop=stop, follow=follow or for_ is not None, limit=limit, progress=progress
            )
        tally = reading.tally
        say(f"{_counted(written, 'pair')} written to {file}")
        if tally.earlier_entries:
            earlier = _counted(tally.earlier_pairs, "earlier pair")
            say(f"{earlier} could no longer be read when it began (see redis.keep)")
        for line in described(tally):
            say(line)

    look(config, work)


@contextlib.contextmanager
def _progress(read: Callable[[], int]) -> Iterator[Callable[[int], None]]:
    """Pairs, bytes and rate on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    from shadowproxy.report.words import size

    console = Console(stderr=True)
    columns = (TextColumn("{task.fields[pairs]} pairs, {task.fields[bytes]}, {task.fields[rate]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task("", total=None, pairs="0", bytes="0 B", rate="0/s")

        def progress(written: int) -> None:
            elapsed = shown.tasks[0].elapsed or 0.0
            rate = f"{written / elapsed:,.0f}/s" if elapsed else "0/s"
            shown.update(task, pairs=f"{written:,}", bytes=size(read()), rate=rate)

        yield progress


def _say_what_was_missed(tally: Tally) -> None:
    from shadowproxy.pairs.reading import described

    for line in described(tally):
        say(line)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def say(line: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"{line}\n")


def look(config: Path, work: Callable[[Partitions, Stop], Coroutine[Any, Any, None]]) -> None:
    """Run it on the store of the configuration, until it is done or told to stop."""
    from shadowproxy.processes import open_to_look, stop_signals

    settings = read_settings(config)
    log_to_stderr("warning")

    async def looking() -> None:
        with stop_signals() as stop:
            async with open_to_look(settings) as store:
                await work(store, stop)

    try:
        run_loop(looking())
    except StoreUnavailable as error:
        fail(str(error), EXIT_UNREACHABLE)
