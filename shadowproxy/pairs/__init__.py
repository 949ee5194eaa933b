"""Pair ⇄ bytes, the stream and the state in Redis, the embedded server, the recorder and its spool."""

from shadowproxy.pairs.codec import decode, encode
from shadowproxy.pairs.connect import resolve
from shadowproxy.pairs.embedded import EmbeddedServer
from shadowproxy.pairs.ledger import Ledger
from shadowproxy.pairs.recorder import Recorder
from shadowproxy.pairs.spool import Spool
from shadowproxy.pairs.store import Entry, Snapshot, Store, Superseded, list_experiments

__all__ = [
    "EmbeddedServer",
    "Entry",
    "Ledger",
    "Recorder",
    "Snapshot",
    "Spool",
    "Store",
    "Superseded",
    "decode",
    "encode",
    "list_experiments",
    "resolve",
]
