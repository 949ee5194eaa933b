"""Pairs into a table of Delta Lake (extra `delta`), as Databricks, Spark, DuckDB and others read it.

Each commit carries how far it goes, as transactions of an application in the table's own log: five numbers for each
partition. They are written in the same step as the rows, so an export that was killed is gone on with where its last
commit ended: no pair is in the table twice, none is left out that was still in the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from shadowproxy.errors import StartError

# Before the tables, which would ask for their own extra alone.
try:
    from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
    from deltalake.exceptions import DeltaError
except ImportError:
    raise StartError(
        "a Delta table needs deltalake, which is not installed: pip install 'shadowproxy[delta]', or export to .jsonl"
    ) from None

from shadowproxy.pairs.lines import Undo
from shadowproxy.pairs.reading import Batch, Position
from shadowproxy.pairs.tables import SCHEMA, Rows

COMMIT_WITHIN: Final = 60.0
"""Seconds after which pairs are committed when the next come, however few they are."""

_NUMBERS: Final = ("milliseconds", "sequence", "entries", "pairs", "taken")


class DeltaSink:
    """Appends to a Delta table, which is made where there is none."""

    def __init__(self, uri: str, experiment: str, undo: Undo, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises StartError where what is there is no table of pairs, or can't be reached."""
        self._uri = uri
        self._experiment = experiment
        self._rows = Rows(undo)
        self._reached: dict[int, Position] = {}
        self._clock = clock
        self._since = clock()
        try:
            if "://" not in uri:
                # Recorded bodies are personal data.
                Path(uri).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._table = DeltaTable.create(uri, SCHEMA, mode="ignore")
            self._table.update_incremental()
            names = [field.name for field in self._table.schema().fields]
        except (DeltaError, OSError) as error:
            raise StartError(f"{uri}: can't be made or read as a Delta table: {_line(error)}") from None
        if names != SCHEMA.names:
            raise StartError(f"{uri}: this Delta table has other columns than pairs have; name another")

    def positions(self, partitions: int) -> Mapping[int, Position]:
        """Where the commits of this experiment end, for each partition that has any."""
        found: dict[int, Position] = {}
        for partition in range(partitions):
            numbers = [self._table.transaction_version(self._application(partition, name)) for name in _NUMBERS]
            known = [number for number in numbers if number is not None]
            if len(known) == len(_NUMBERS):
                milliseconds, sequence, entries, pairs, taken = known
                found[partition] = Position(f"{milliseconds}-{sequence}", entries, pairs, taken)
        return found

    def write(self, batch: Batch) -> None:
        """Rows for its pairs; committed when there are enough, or the oldest has waited for `COMMIT_WITHIN`."""
        if not len(self._rows):
            self._since = self._clock()
        self._rows.add(batch)
        self._reached[batch.partition] = batch.position
        if self._rows.full or self._clock() - self._since >= COMMIT_WITHIN:
            self._commit()

    def finish(self) -> None:
        """Commit what is left."""
        if len(self._rows):
            self._commit()

    def discard(self) -> None:
        """Forget what is not committed."""
        self._rows.take()

    def _application(self, partition: int, name: str) -> str:
        return f"shadowproxy:{self._experiment}:{partition}:{name}"

    def _commit(self) -> None:
        transactions = [
            Transaction(self._application(partition, name), number)
            for partition, position in self._reached.items()
            for name, number in zip(_NUMBERS, _numbers(position), strict=True)
        ]
        try:
            # Not its name: with the table as it is known here, whoever wrote the same partitions meanwhile is noticed.
            write_deltalake(
                self._table,
                self._rows.take(),
                mode="append",
                commit_properties=CommitProperties(app_transactions=transactions),
            )
        except (DeltaError, OSError) as error:
            raise StartError(f"{self._uri}: can't be appended to: {_line(error)}") from None
        self._reached.clear()


def _numbers(position: Position) -> tuple[int, ...]:
    milliseconds, _, sequence = position.after.partition("-")
    return int(milliseconds), int(sequence), position.entries, position.pairs, position.taken


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
