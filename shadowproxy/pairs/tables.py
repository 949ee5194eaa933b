"""Pairs as rows of one flat table, for Parquet and Delta Lake (extra `parquet`). The schema is in `docs/pairs.md`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, Final

from shadowproxy.errors import PayloadError, StartError
from shadowproxy.model import Exchange, Outcome, Pair, Request, Side, headers
from shadowproxy.pairs.lines import Recorded, Undo, undone
from shadowproxy.pairs.reading import Batch

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:
    raise StartError(
        "Parquet needs pyarrow, which is not installed: pip install 'shadowproxy[parquet]', or use .jsonl"
    ) from None

_FIRST: Final = -62_135_596_800_000_000
_LAST: Final = 253_402_300_799_999_999
"""Microseconds of the years 1 to 9999, which is what every reader knows."""

_HEADERS: Final = pa.map_(pa.string(), pa.string())

_Column = tuple[str, pa.DataType, str]

PAIR_COLUMNS: Final[tuple[_Column, ...]] = (
    ("id", pa.string(), "request id"),
    ("started", pa.timestamp("us", "UTC"), "when the request's head was complete"),
    ("partition", pa.int32(), "of the stream"),
    ("entry", pa.string(), "entry of the partition; with `position` it names the pair for good"),
    ("position", pa.int32(), "which pair of its entry, from 0"),
    ("method", pa.string(), "of the request"),
    ("target", pa.string(), "path and query, as sent"),
    ("path", pa.string(), "the target up to the query"),
    ("request_headers", _HEADERS, "names in lower case; of one that is repeated the values are joined with `, `"),
    ("request_body", pa.string(), "text without content codings; null where it is no UTF-8 or can't be decoded"),
    ("request_body_raw", pa.binary(), "as sent; null where it is `request_body` byte for byte"),
    ("request_body_size", pa.int64(), "bytes of the whole body, captured or not"),
    ("annotations", pa.string(), "JSON of the annotation header; null where none was sent"),
    ("notes", pa.list_(pa.string()), "what redaction left out for not being able to look into it"),
)
"""Name, type and meaning of the columns that a pair has once."""
SIDE_COLUMNS: Final[tuple[_Column, ...]] = (
    ("outcome", pa.string(), "`ok`, `timeout`, `connect`, `reset`, `protocol` or `shed`; null: no such upstream"),
    ("status", pa.int32(), "null where no response came"),
    ("ttfb", pa.float64(), "seconds to the first byte; null where none came"),
    ("total", pa.float64(), "seconds to the last byte; null where it never came"),
    ("detail", pa.string(), "for a failure, what happened"),
    ("headers", _HEADERS, "as `request_headers`"),
    ("body", pa.string(), "as `request_body`"),
    ("body_raw", pa.binary(), "as `request_body_raw`"),
    ("body_size", pa.int64(), "bytes of the whole body, captured or not"),
    ("truncated", pa.bool_(), "whether less than the whole body was captured"),
    ("digest", pa.string(), "BLAKE2b-128 of the whole body, hexadecimal, where it is truncated"),
)
"""Those that it has for each side, less the side's name and `_` ahead of them."""
COLUMNS: Final[tuple[_Column, ...]] = (
    *PAIR_COLUMNS,
    *((f"{side.value}_{name}", kind, meaning) for side in Side for name, kind, meaning in SIDE_COLUMNS),
)
"""Name, type and meaning of every column, in order."""

SCHEMA: Final = pa.schema([(name, kind) for name, kind, _ in COLUMNS])


GROUP_ROWS: Final = 10_000
"""Rows of one row group of Parquet at most, and of one commit to a Delta table."""
GROUP_BYTES: Final = 32 * 1024**2
"""Likewise the bytes of what was recorded, give or take one entry."""
_READ_ROWS: Final = 256


class Rows:
    """Rows that wait to be written, and roughly how many bytes they hold."""

    def __init__(self, undo: Undo) -> None:
        self._undo = undo
        self._clear()

    def _clear(self) -> None:
        self._columns: dict[str, list[Any]] = {name: [] for name, _, _ in COLUMNS}
        self.size = 0

    def __len__(self) -> int:
        return len(self._columns["id"])

    @property
    def full(self) -> bool:
        """Whether they are enough for one row group or commit."""
        return len(self) >= GROUP_ROWS or self.size >= GROUP_BYTES

    def add(self, batch: Batch) -> None:
        """A row for each pair of the batch."""
        for position, pair in enumerate(batch.pairs, batch.first):
            row = {"partition": batch.partition, "entry": batch.entry, "position": position, **self._row(pair)}
            for name, column in self._columns.items():
                column.append(row.get(name))
            self.size += _size(pair)

    def take(self) -> pa.Table:
        """All of them as a table; none are left."""
        table = pa.Table.from_pydict(self._columns, schema=SCHEMA)
        self._clear()
        return table

    def _row(self, pair: Pair) -> dict[str, Any]:
        request = pair.request
        body, raw = self._body(request.head, request.body)
        row = {
            "id": pair.id,
            "started": _microseconds(pair.started),
            "method": request.method,
            "target": request.target,
            "path": request.path,
            "request_headers": _joined(request.head),
            "request_body": body,
            "request_body_raw": raw,
            "request_body_size": request.body_size,
            "annotations": _utf8(pair.annotations) if pair.annotations else None,
            "notes": list(pair.notes),
        }
        for side, exchange in (
            (Side.BASELINE, pair.baseline),
            (Side.CANDIDATE, pair.candidate),
            (Side.REPLICA, pair.replica),
        ):
            if exchange is not None:
                row |= {f"{side.value}_{name}": value for name, value in self._side(exchange).items()}
        return row

    def _side(self, exchange: Exchange) -> dict[str, Any]:
        body, raw = self._body(exchange.head, exchange.body)
        return {
            "outcome": exchange.outcome.value,
            "status": exchange.status or None,
            "ttfb": _finite(exchange.ttfb),
            "total": _finite(exchange.total),
            "detail": exchange.detail or None,
            "headers": _joined(exchange.head),
            "body": body,
            "body_raw": raw,
            "body_size": exchange.body_size,
            "truncated": exchange.truncated,
            "digest": exchange.digest.hex() or None,
        }

    def _body(self, head: bytes, body: bytes) -> tuple[str | None, bytes | None]:
        text = undone(head, body, self._undo)
        return text, None if text is not None and text.encode() == body else body


def parquet_writer(file: IO[bytes]) -> Any:
    """A writer of row groups, zstd-compressed, into an open file. `close` writes the foot, and leaves the file open."""
    return pq.ParquetWriter(file, SCHEMA, compression="zstd")


class ParquetReader:
    """The pairs of a Parquet file as the writer leaves them, a few hundred at a time.

    Of a head the names come back in lower case and a repeated one as one line, and times of a start are in whole
    microseconds: nothing of it changes a comparison. Raises StartError for what is no such file.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._name = name
        try:
            self._parquet = pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise StartError(f"{name}: can't be read as Parquet: {_first_line(error)}") from None
        missing = [column for column, _, _ in COLUMNS if column not in self._parquet.schema_arrow.names]
        if missing:
            raise StartError(
                f"{name}: is not of `shadowproxy pairs export`: it has no column {missing[0]}; see docs/pairs.md"
            )
        self.rows: int = self._parquet.metadata.num_rows

    def __iter__(self) -> Iterator[Recorded | PayloadError]:
        """Each row's pair, or why it is none. Raises StartError where the file is damaged."""
        names = [name for name, _, _ in COLUMNS]
        try:
            for batch in self._parquet.iter_batches(batch_size=_READ_ROWS, columns=names):
                for row in batch.to_pylist():
                    yield _recorded(row)
        except (pa.ArrowException, OSError) as error:
            raise StartError(f"{self._name}: is damaged: {_first_line(error)}; export it again") from None


def _recorded(row: Mapping[str, Any]) -> Recorded | PayloadError:
    try:
        started = row["started"]
        pair = Pair(
            id=row["id"] or "",
            started=math.inf if started is None else started.timestamp(),
            request=Request(
                method=row["method"] or "",
                target=row["target"] or "",
                head=_head(row["request_headers"]),
                body=_recorded_body(row, "request_"),
                body_size=row["request_body_size"] or 0,
            ),
            baseline=_exchange(row, Side.BASELINE) or _absent(Side.BASELINE),
            candidate=_exchange(row, Side.CANDIDATE) or _absent(Side.CANDIDATE),
            replica=_exchange(row, Side.REPLICA),
            annotations=(row["annotations"] or "").encode(),
            notes=tuple(row["notes"] or ()),
        )
        return Recorded(row["partition"], row["entry"], row["position"], pair)
    except (TypeError, ValueError, AttributeError) as error:
        return PayloadError(f"not a row of `shadowproxy pairs export`: {_first_line(error)}")


def _exchange(row: Mapping[str, Any], side: Side) -> Exchange | None:
    name = f"{side.value}_"
    if row[f"{name}outcome"] is None:
        return None
    ttfb, total = row[f"{name}ttfb"], row[f"{name}total"]
    return Exchange(
        outcome=Outcome(row[f"{name}outcome"]),
        status=row[f"{name}status"] or 0,
        head=_head(row[f"{name}headers"]),
        body=_recorded_body(row, name),
        body_size=row[f"{name}body_size"] or 0,
        digest=bytes.fromhex(row[f"{name}digest"] or ""),
        ttfb=math.inf if ttfb is None else ttfb,
        total=math.inf if total is None else total,
        detail=row[f"{name}detail"] or "",
    )


def _absent(side: Side) -> Exchange:
    raise ValueError(f"it has no {side.value}_outcome")


def _recorded_body(row: Mapping[str, Any], prefix: str) -> bytes:
    raw: bytes | None = row[f"{prefix}body_raw"]
    return raw if raw is not None else (row[f"{prefix}body"] or "").encode()


def _head(fields: Iterable[tuple[str, str]] | None) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in fields or ()).encode("latin-1", "replace")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _size(pair: Pair) -> int:
    parts: Iterable[bytes] = (pair.request.head, pair.request.body, pair.annotations)
    sides = (side for side in (pair.baseline, pair.candidate, pair.replica) if side is not None)
    return 500 + sum(map(len, parts)) + sum(len(side.head) + len(side.body) for side in sides)


def _joined(head: bytes) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for name, value in headers(head):
        found[name] = f"{found[name]}, {value}" if name in found else value
    return list(found.items())


def _microseconds(started: float) -> int | None:
    stamp = started * 1e6
    return round(stamp) if _FIRST <= stamp <= _LAST else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _utf8(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None
