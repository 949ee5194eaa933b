"""The Lua scripts that make a change of the store one atomic step.

They use what Redis 7.0 and Valkey 8 both have. Every key is passed in KEYS, and all keys of one partition carry the
same hash tag, so that they live in one slot of a Cluster.

Three choices that all scripts share:

- *Entry ids carry the number of pairs.* An id is `ms-seq` with seq = ordinal · 16384 + pairs, the ordinal counting the
  entries of the partition. What an entry holds is then known wherever its id is (pending, trimmed, dead) without
  reading its payload, which can be megabytes. Ordinals to 5·10^11 fit the exact integers of Lua.
- *The stream has an index*, since only the server knows what is in it, and reading a payload to learn its size would
  copy megabytes: two sorted sets of `id:bytes`, scored by ordinal, of the entries that wait to be committed and of
  those that are committed and kept for people to look at (`redis.keep`). What is kept goes first where room is needed.
- *One clock that never goes back*, kept in the totals: the larger of the server's time and the last time given out as
  an id or as a watermark. Without it a server clock that is set back would write entries below a watermark that has
  been published already.

Every script may be sent twice (a reply can be lost after the step was done); the second does nothing more.
"""

from shadowproxy.pairs.scripts.common import MAX_PAIRS, ordinal_of
from shadowproxy.pairs.scripts.controls import CONTROL, CONTROL_STATUS, REPORT
from shadowproxy.pairs.scripts.entries import APPEND, CLAIM, MAKE_GROUP, OWN_PENDING, PUBLISH, STANDING, WATERMARK
from shadowproxy.pairs.scripts.experiments import CALIBRATE, ORIGIN, REMEMBER, RESET, SEEN, TRAIL
from shadowproxy.pairs.scripts.firsts import DUE_FIRSTS, FIND_FIRSTS, SETTLE
from shadowproxy.pairs.scripts.labels import ADD_LABELS, EXPIRE_LABELS, FIND_UNLABELLED, JOIN, MAKE_LABEL_GROUP
from shadowproxy.pairs.scripts.states import ABSORB, ACCOUNTS, COMMIT, LATCH, LOAD, SILENT, SLOTS, SNAPSHOT

__all__ = [
    "ABSORB",
    "ACCOUNTS",
    "ADD_LABELS",
    "APPEND",
    "CALIBRATE",
    "CLAIM",
    "COMMIT",
    "CONTROL",
    "CONTROL_STATUS",
    "DUE_FIRSTS",
    "EXPIRE_LABELS",
    "FIND_FIRSTS",
    "FIND_UNLABELLED",
    "JOIN",
    "LATCH",
    "LOAD",
    "MAKE_GROUP",
    "MAKE_LABEL_GROUP",
    "MAX_PAIRS",
    "ORIGIN",
    "OWN_PENDING",
    "PUBLISH",
    "REMEMBER",
    "REPORT",
    "RESET",
    "SEEN",
    "SETTLE",
    "SILENT",
    "SLOTS",
    "SNAPSHOT",
    "STANDING",
    "TRAIL",
    "WATERMARK",
    "ordinal_of",
]
