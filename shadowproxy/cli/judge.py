"""`shadowproxy judge`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shadowproxy.cli.common import Config, Json, fail, read_settings

if TYPE_CHECKING:
    from shadowproxy.pairs.lines import Recorded
    from shadowproxy.pairs.recorded import Recording, Unreadable

app = typer.Typer()

_SPELLED = 20
"""How many lines that can't be read are said by number before the rest are only counted."""
_OFTEN = 100
"""Pairs between two looks at how far it is."""

Files = Annotated[
    list[str],
    typer.Argument(metavar="FILE...", help="As `pairs export` writes: lines of JSON (.gz, .zst), Parquet; - is stdin."),
]
Explain = Annotated[bool, typer.Option("--explain", help="Say what each figure means and how the decision follows.")]


@app.command()
def judge(
    files: Files,
    config: Config,
    as_json: Json = False,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write it there as Markdown, too; - is stdout.")
    ] = None,
    explain: Explain = False,
) -> None:
    """Judge recorded pairs by a configuration, offline: the verdict that the running system would give on them.

    Of files that overlap each pair counts once. A line that is no pair is said and counted, and nothing is promoted
    then. Exit code: 0 promote, 1 rollback, 3 continue, 2 usage.

    [bold]Example[/bold]: shadowproxy judge pairs.jsonl.zst --config shadowproxy.yaml --explain
    """
    import time

    from shadowproxy.cli.verdict import print_verdict
    from shadowproxy.comparator.judge import Judge
    from shadowproxy.verdict.record import EXIT_CODES

    settings = read_settings(config)
    if as_json and (explain or str(markdown) == "-"):
        fail("--json prints nothing else: leave out --explain, and give --markdown a file")
    judging = Judge(settings)
    recording, spoken = opened(files), Spoken()
    for found in shown(recording):
        spoken(found)
        judging.add(found)
    notes = [f"{judging.unreadable:,} lines could not be read, and count as dead letters"] if judging.unreadable else []
    entries, pairs = recording.missing
    if entries or pairs:
        notes.append(f"{entries:,} entries of the stream, and {pairs:,} pairs of others, are in no file")
    if recording.duplicates:
        notes.append(f"{recording.duplicates:,} pairs stood in the files more than once, and count once")
    got = judging.verdict(time.time(), notes)
    spoken.end()
    if markdown is not None:
        from shadowproxy.report.markdown import verdict_markdown

        written(markdown, verdict_markdown(got))
    if str(markdown) != "-":
        print_verdict(got, as_json=as_json, explain=explain)
    raise SystemExit(EXIT_CODES[got.state])


def opened(files: list[str]) -> Recording:
    """The recording in the files. Raises StartError."""
    from shadowproxy.pairs.recorded import open_recording

    if files.count("-") > 1:
        fail("standard input can be read once only: say - once")
    return open_recording(files, sys.stdin.buffer)


class Spoken:
    """Says on stderr which lines can't be read, the first of them one by one."""

    def __init__(self) -> None:
        self._unreadable = 0

    def __call__(self, found: Recorded | Unreadable) -> None:
        """Look at what comes next."""
        from shadowproxy.pairs.recorded import Unreadable
        from shadowproxy.report.words import plain

        if isinstance(found, Unreadable):
            self._unreadable += 1
            if self._unreadable <= _SPELLED:
                sys.stderr.write(f"{plain(str(found))}\n")

    def passed(self, found: Recorded | Unreadable) -> Recorded | Unreadable:
        """The same, looked at."""
        self(found)
        return found

    def end(self) -> None:
        """Say how many there were beyond those."""
        if self._unreadable > _SPELLED:
            sys.stderr.write(f"and {self._unreadable - _SPELLED:,} more lines that can't be read\n")


def shown(recording: Recording) -> Iterator[Recorded | Unreadable]:
    """What is recorded, with a bar on stderr where that is a terminal."""
    with _progress(recording) as progress:
        for number, found in enumerate(recording, 1):
            yield found
            if number % _OFTEN == 0:
                progress(number)


@contextmanager
def _progress(recording: Recording) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[pairs]} pairs"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=recording.size, pairs="0")
        yield lambda pairs: bar.update(task, completed=recording.done, pairs=f"{pairs:,}")


def written(path: Path, text: str) -> None:
    """Write a file, or to stdout for `-`."""
    if str(path) == "-":
        typer.echo(text, nl=False)
        return
    try:
        path.write_text(text)
    except OSError as error:
        fail(f"{path}: can't be written: {error.strerror}; choose another place")
