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

from __future__ import annotations

from typing import Final

MAX_PAIRS: Final = 16383
"""Pairs that one entry can hold: what an entry id has room for."""


def ordinal_of(entry: str) -> int:
    """The ordinal that an entry id carries, 0 where it is no such id.

    >>> ordinal_of("1700000000000-49252")
    3
    """
    _, _, sequence = entry.partition("-")
    return int(sequence) // (MAX_PAIRS + 1) if sequence.isdigit() else 0


_COMMON: Final = """
local PAIRS_IN_ID = 16384

local function integer(value)
    return string.format('%.0f', value)
end

-- An id as its two numbers: milliseconds, sequence.
local function parts(id)
    local ms, seq = string.match(id, '^(%d+)-(%d+)$')
    return tonumber(ms), tonumber(seq)
end

local function pairs_of(id)
    local _, seq = parts(id)
    return seq % PAIRS_IN_ID
end

local function ordinal_of(id)
    local _, seq = parts(id)
    return math.floor(seq / PAIRS_IN_ID)
end

-- A member of an index as its two parts: id, bytes.
local function indexed(member)
    local id, bytes = string.match(member, '^(.+):(%d+)$')
    return id, tonumber(bytes)
end

-- Delete the oldest entry of an index, from the stream and from it. Returns its bytes, nil where there is none.
local function evict(stream, index)
    local member = redis.call('ZRANGE', index, 0, 0)[1]
    if not member then
        return nil
    end
    local id, bytes = indexed(member)
    redis.call('XDEL', stream, id)
    redis.call('ZREM', index, member)
    return bytes
end

-- Milliseconds, never less than any that was given out before.
local function clock(totals)
    local time = redis.call('TIME')
    local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
    return math.max(now, tonumber(redis.call('HGET', totals, 'clock') or '0'))
end

-- The producer's account, unless a later one is stored: a delayed duplicate must not turn it back.
-- Stored as 'weight account'; the weight only grows.
local function store_account(accounts, producer, weight, account)
    local old = redis.call('HGET', accounts, producer)
    if old and tonumber(string.match(old, '^(%d+) ')) > tonumber(weight) then
        return
    end
    redis.call('HSET', accounts, producer, weight .. ' ' .. account)
end

-- The first entry that no worker has been given, as {id, fields}, or nil.
local function first_undelivered(stream, group)
    for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
        local field = {}
        for at = 1, #info, 2 do
            field[info[at]] = info[at + 1]
        end
        if field['name'] == group then
            return redis.call('XRANGE', stream, '(' .. field['last-delivered-id'], '+', 'COUNT', 1)[1]
        end
    end
    return nil
end

-- Milliseconds up to which everything that was written has been committed (see Store.commit).
local function watermark(stream, totals, group, undelivered)
    local oldest = nil
    local pending = redis.call('XPENDING', stream, group)
    if pending[1] > 0 then
        oldest = parts(pending[2])
    end
    if undelivered then
        local ms = parts(undelivered[1])
        oldest = oldest and math.min(oldest, ms) or ms
    end
    if oldest then
        return oldest
    end
    local now = clock(totals)
    -- Refused where memory is out, and then done without: a snapshot must still be readable.
    redis.pcall('HSET', totals, 'clock', integer(now))
    return now
end
"""

APPEND: Final = (
    _COMMON
    + """
-- KEYS: pairs, totals, sequences, accounts, clocks, index, kept
-- ARGV: producer, sequence, pairs, payload, weight, account, max entries, entry version, the producer's clock in ms,
--       max bytes
-- Returns 1, or 0 if this producer's batch of that sequence is stored already.
local stream, totals, sequences, accounts, index, kept = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[6], KEYS[7]
local producer, sequence, count, size = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), #ARGV[4]

local last = redis.call('HGET', sequences, producer)
if last and sequence <= tonumber(last) then
    return 0
end
local known = redis.call('HMGET', totals, 'entries', 'pairs', 'waiting_bytes', 'kept_bytes')
for at = 1, 4 do
    known[at] = tonumber(known[at] or '0')
end
local ordinal, before, waiting_bytes, kept_bytes = known[1] + 1, known[2], known[3], known[4]
local now = clock(totals)
local id = integer(now) .. '-' .. integer(ordinal * PAIRS_IN_ID + count)

-- The entry is the first write: where Redis is out of memory it is refused, and nothing has been stored. But what is
-- only kept to be looked at must not stand in its way.
local function add(call)
    return call('XADD', stream, id, 'v', ARGV[8], 'n', ARGV[3], 'c', integer(before), 'b', ARGV[4])
end
local added = add(redis.pcall)
if type(added) == 'table' and added.err then
    local freed = 0
    while freed < size do
        local bytes = evict(stream, kept)
        if not bytes then
            break
        end
        freed = freed + bytes
    end
    if freed == 0 then
        return added
    end
    kept_bytes = kept_bytes - freed
    add(redis.call)
end
redis.call('ZADD', index, integer(ordinal), id .. ':' .. integer(size))
waiting_bytes = waiting_bytes + size

-- Somebody else may have trimmed the stream: what is gone from it is of no size.
local length = redis.call('XLEN', stream)
if length ~= redis.call('ZCARD', index) + redis.call('ZCARD', kept) then
    local first = integer(ordinal_of(redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1][1]))
    for name, of in pairs({waiting = index, kept = kept}) do
        for _, member in ipairs(redis.call('ZRANGEBYSCORE', of, '-inf', '(' .. first)) do
            local _, bytes = indexed(member)
            redis.call('ZREM', of, member)
            if name == 'kept' then
                kept_bytes = kept_bytes - bytes
            else
                waiting_bytes = waiting_bytes - bytes
            end
        end
    end
end
while length > 1 and (length > tonumber(ARGV[7]) or waiting_bytes + kept_bytes > tonumber(ARGV[10])) do
    local bytes = evict(stream, kept)
    if bytes then
        kept_bytes = kept_bytes - bytes
    else
        bytes = evict(stream, index)
        if not bytes then
            break
        end
        waiting_bytes = waiting_bytes - bytes
    end
    length = length - 1
end
redis.call('HSET', totals, 'entries', integer(ordinal), 'pairs', integer(before + count), 'clock', integer(now),
    'waiting_bytes', integer(waiting_bytes), 'kept_bytes', integer(kept_bytes))
redis.call('HSET', sequences, producer, ARGV[2])
redis.call('HSET', KEYS[5], producer, integer(now - tonumber(ARGV[9])) .. ' ' .. integer(now))
store_account(accounts, producer, ARGV[5], ARGV[6])
return 1
"""
)
"""Field `c` of an entry is the number of pairs written before it: with it lost pairs are counted exactly."""

PUBLISH: Final = (
    _COMMON
    + """
-- KEYS: accounts;  ARGV: producer, weight, account
store_account(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
return 1
"""
)

STANDING: Final = """
-- KEYS: sequences, accounts;  ARGV: producer.  Returns {last sequence or nil, account or nil}, of one instant.
return {redis.call('HGET', KEYS[1], ARGV[1]), redis.call('HGET', KEYS[2], ARGV[1])}
"""

OWN_PENDING: Final = """
-- KEYS: pairs;  ARGV: group, worker, count
-- Returns {{id, fields, deliveries}, …}: what the worker was given and has not committed.
-- Reading the history by XREADGROUP would count as another delivery, and that a worker tries to commit again is none
-- of the entry's doing. XCLAIM JUSTID makes the entry fresh for its owner, and counts nothing.
local stream, group, worker, count = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local found = {}
local after = '-'
while #found < count do
    local rows = redis.call('XPENDING', stream, group, after, '+', count, worker)
    if #rows == 0 then
        break
    end
    for _, row in ipairs(rows) do
        after = '(' .. row[1]
        local entry = redis.call('XRANGE', stream, row[1], row[1])[1]
        if not entry then
            -- Trimmed while it was pending: nobody can commit it any more, and it would hold the watermark for ever.
            redis.call('XACK', stream, group, row[1])
        elseif #found < count then
            redis.call('XCLAIM', stream, group, worker, 0, row[1], 'JUSTID')
            found[#found + 1] = {entry[1], entry[2], row[4]}
        end
    end
end
return found
"""

CLAIM: Final = """
-- KEYS: pairs;  ARGV: group, worker, idle ms, count
-- Returns {{id, fields, deliveries}, …}: entries that were idle with *other* workers, now this worker's.
-- XAUTOCLAIM would hand a slow worker its own entries a second time. XCLAIM forgets entries that were trimmed.
local stream, group, worker, idle, count = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local found = {}
local after = '-'
while #found < count do
    local pending = redis.call('XPENDING', stream, group, 'IDLE', idle, after, '+', 100)
    if #pending == 0 then
        break
    end
    for _, state in ipairs(pending) do
        after = '(' .. state[1]
        if state[2] ~= worker and #found < count then
            local entry = redis.call('XCLAIM', stream, group, worker, idle, state[1])[1]
            if entry and type(entry[2]) == 'table' then
                found[#found + 1] = {entry[1], entry[2], state[4] + 1}
            end
        end
    end
end
return found
"""

COMMIT: Final = (
    _COMMON
    + """
-- KEYS: pairs, totals, states, versions, dead, dead sizes, index, kept,
--       labels, their totals, unlabelled, its expiry, early, its expiry, labelled
-- ARGV: group, worker, version to write, version expected, state, most dead letters, their most bytes,
--       bytes of committed entries to keep, number of ids, ids…, number of dead, (id, reason)…,
--       most unlabelled, how many of them found no room in this commit, (pair's id, expiry ms, record)…
-- Returns {1, watermark in ms} when stored (or stored before), {0, lost ids…} when entries are no longer the worker's,
-- {2} when the worker's state was written by somebody else since it was loaded.
local stream, totals, states, versions, dead = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local dead_sizes, index, kept = KEYS[6], KEYS[7], KEYS[8]
local group, worker, version, keep = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[8])

-- Fails here, before anything is written, where stream or group are gone.
redis.call('XPENDING', stream, group)
local held = redis.call('HGET', versions, worker) or ''
if held == version then
    return {1, integer(watermark(stream, totals, group, first_undelivered(stream, group)))}
end
if held ~= ARGV[4] then
    return {2}
end

local ids, lost, committed = {}, {0}, 0
local at = 10
for _ = 1, tonumber(ARGV[9]) do
    local id = ARGV[at]
    if #redis.call('XPENDING', stream, group, id, id, 1, worker) == 0 then
        lost[#lost + 1] = id
    end
    ids[#ids + 1] = id
    committed = committed + pairs_of(id)
    at = at + 1
end
if #lost > 1 then
    return lost
end

local letters, letters_pairs = tonumber(ARGV[at]), 0
local copies, unreadable = {}, {}
at = at + 1
for number = 1, letters do
    local id, reason = ARGV[at], ARGV[at + 1]
    local entry = redis.call('XRANGE', stream, id, id)[1]
    local copy = {'reason', reason, 'id', id}
    for _, value in ipairs(entry and entry[2] or {}) do
        copy[#copy + 1] = value
    end
    copies[number] = copy
    unreadable[id] = true
    letters_pairs = letters_pairs + pairs_of(id)
    at = at + 2
end

-- What was trimmed while the worker held it is not there to be kept.
local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
local first = oldest and ordinal_of(oldest[1]) or math.huge
-- The acknowledgement is the first write: it frees memory, so it is allowed where memory is out, and with it the rest.
local waiting_bytes, kept_bytes = 0, tonumber(redis.call('HGET', totals, 'kept_bytes') or '0')
for _, id in ipairs(ids) do
    redis.call('XACK', stream, group, id)
    local ordinal = integer(ordinal_of(id))
    local member = redis.call('ZRANGEBYSCORE', index, ordinal, ordinal)[1]
    if member then
        local _, bytes = indexed(member)
        redis.call('ZREM', index, member)
        waiting_bytes = waiting_bytes + bytes
        if bytes <= keep and not unreadable[id] and ordinal_of(id) >= first then
            redis.call('ZADD', kept, ordinal, member)
            kept_bytes = kept_bytes + bytes
        else
            redis.call('XDEL', stream, id)
        end
    else
        redis.call('XDEL', stream, id)
    end
end
while kept_bytes > keep do
    local bytes = evict(stream, kept)
    if not bytes then
        kept_bytes = 0
        break
    end
    kept_bytes = kept_bytes - bytes
end
redis.call('HSET', totals, 'kept_bytes', integer(kept_bytes))
if waiting_bytes > 0 then
    redis.call('HINCRBY', totals, 'waiting_bytes', integer(-waiting_bytes))
end
redis.call('HSET', states, worker, ARGV[5])
redis.call('HSET', versions, worker, version)
redis.call('HINCRBY', totals, 'committed_entries', #ids)
redis.call('HINCRBY', totals, 'committed_pairs', committed)
if letters > 0 then
    redis.call('HINCRBY', totals, 'dead_entries', letters)
    redis.call('HINCRBY', totals, 'dead_pairs', letters_pairs)
    local dead_bytes = tonumber(redis.call('HGET', totals, 'dead_bytes') or '0')
    for _, copy in ipairs(copies) do
        local bytes = 0
        for _, value in ipairs(copy) do
            bytes = bytes + #value
        end
        redis.call('XADD', dead, '*', unpack(copy))
        redis.call('RPUSH', dead_sizes, integer(bytes))
        dead_bytes = dead_bytes + bytes
    end
    local length = redis.call('XLEN', dead)
    while length > 1 and (length > tonumber(ARGV[6]) or dead_bytes > tonumber(ARGV[7])) do
        length = length - 1
        redis.call('XTRIM', dead, 'MAXLEN', integer(length))
        dead_bytes = dead_bytes - tonumber(redis.call('LPOP', dead_sizes) or '0')
    end
    redis.call('HSET', totals, 'dead_bytes', integer(dead_bytes))
end

-- Pairs that wait for their label; a label that came before goes back into the stream, to be joined as any other is.
local most, overflow = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
at = at + 2
if at <= #ARGV or overflow > 0 then
    local labels, label_totals, unlabelled, expiry = KEYS[9], KEYS[10], KEYS[11], KEYS[12]
    local early, early_expiry, labelled = KEYS[13], KEYS[14], KEYS[15]
    local waiting = redis.call('HLEN', unlabelled)
    while at <= #ARGV do
        local id, expires = ARGV[at], tonumber(ARGV[at + 1])
        -- Of pairs that share an id the first is meant; which other a label would be of, nobody could tell.
        if waiting >= most or redis.call('HEXISTS', unlabelled, id) == 1 or redis.call('ZSCORE', labelled, id) then
            overflow = overflow + 1
        else
            local came = redis.call('HGET', early, id)
            if came then
                local arrived, truth = string.match(came, '^(%d+) (.*)$')
                redis.call('HDEL', early, id)
                redis.call('ZREM', early_expiry, id)
                if tonumber(arrived) <= expires then
                    local entry = redis.call('XADD', labels, '*', 'id', id, 'truth', truth)
                    redis.call('HINCRBY', label_totals, 'requeued', 1)
                    -- It was in time, and must not be too late for having been sent back.
                    expires = math.max(expires, (parts(entry)))
                end
            end
            redis.call('HSET', unlabelled, id, ARGV[at + 2])
            redis.call('ZADD', expiry, integer(expires), id)
            waiting = waiting + 1
        end
        at = at + 3
    end
    if overflow > 0 then
        redis.call('HINCRBY', label_totals, 'overflow', overflow)
    end
end
return {1, integer(watermark(stream, totals, group, first_undelivered(stream, group)))}
"""
)

LOAD: Final = """
-- KEYS: states, versions;  ARGV: worker
-- Returns {state, version}, both empty strings if the worker has none.
return {redis.call('HGET', KEYS[1], ARGV[1]) or '', redis.call('HGET', KEYS[2], ARGV[1]) or ''}
"""

SILENT: Final = """
-- KEYS: pairs, states, versions;  ARGV: group, worker, idle ms, most
-- Returns {{name, state, version}, …}: of workers that hold a state and no entries, and said nothing for so long.
local busy = {}
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
    local field = {}
    for at = 1, #info, 2 do
        field[info[at]] = info[at + 1]
    end
    busy[field['name']] = field['pending'] > 0 or field['idle'] < tonumber(ARGV[3])
end
local found = {}
for _, name in ipairs(redis.call('HKEYS', KEYS[2])) do
    if #found < tonumber(ARGV[4]) and name ~= ARGV[2] and not busy[name] then
        found[#found + 1] = {name, redis.call('HGET', KEYS[2], name), redis.call('HGET', KEYS[3], name) or ''}
    end
end
return found
"""

ABSORB: Final = """
-- KEYS: pairs, states, versions, labels
-- ARGV: group, worker, version to write, version expected, state, (name, version)…
-- The worker's state is written, and those it includes are deleted. One of these workers that lives after all is told
-- by its next commit that its state is no longer what it thinks.
-- Returns 1 when stored (or stored before), 0 where one of the others has changed, 2 where the worker's own has.
local stream, states, versions = KEYS[1], KEYS[2], KEYS[3]
local held = redis.call('HGET', versions, ARGV[2]) or ''
if held == ARGV[3] then
    return 1
end
if held ~= ARGV[4] then
    return 2
end
for at = 6, #ARGV, 2 do
    if ARGV[at] == ARGV[2] or (redis.call('HGET', versions, ARGV[at]) or '') ~= ARGV[at + 1] then
        return 0
    end
end
redis.call('HSET', states, ARGV[2], ARGV[5])
redis.call('HSET', versions, ARGV[2], ARGV[3])
for at = 6, #ARGV, 2 do
    redis.call('HDEL', states, ARGV[at])
    redis.call('HDEL', versions, ARGV[at])
    -- Deleting a consumer forgets what it holds, so only of one that holds nothing.
    if #redis.call('XPENDING', stream, ARGV[1], '-', '+', 1, ARGV[at]) == 0 then
        redis.call('XGROUP', 'DELCONSUMER', stream, ARGV[1], ARGV[at])
    end
    -- An error where nobody uses labels: there is no such group.
    local labels = redis.pcall('XPENDING', KEYS[4], ARGV[1], '-', '+', 1, ARGV[at])
    if not labels['err'] and #labels == 0 then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[4], ARGV[1], ARGV[at])
    end
end
return 1
"""

WATERMARK: Final = (
    _COMMON
    + """
-- KEYS: pairs, totals;  ARGV: group.  Returns the watermark in ms.
return integer(watermark(KEYS[1], KEYS[2], ARGV[1], first_undelivered(KEYS[1], ARGV[1])))
"""
)

MAKE_GROUP: Final = (
    _COMMON
    + """
-- KEYS: pairs, totals, kept;  ARGV: group
-- The group begins at the stream's beginning, so nothing may be there that was committed already. Returns whether it
-- was made.
if redis.call('EXISTS', KEYS[1]) == 1 then
    for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
        if info[2] == ARGV[1] then
            return 0
        end
    end
end
while evict(KEYS[1], KEYS[3]) do end
redis.call('HSET', KEYS[2], 'kept_bytes', 0)
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
return 1
"""
)

SLOTS: Final = """
-- KEYS: slots;  ARGV: limit, names…
-- Returns the whole hash, flat: every name that has a slot, and which.
local taken = redis.call('HLEN', KEYS[1])
for at = 2, #ARGV do
    if taken < tonumber(ARGV[1]) and redis.call('HSETNX', KEYS[1], ARGV[at], taken + 1) == 1 then
        taken = taken + 1
    end
end
return redis.call('HGETALL', KEYS[1])
"""

SNAPSHOT: Final = (
    _COMMON
    + """
-- KEYS: pairs, totals, states, accounts, slots, latch, clocks, kept, bases,
--       labels, their totals, unlabelled, early, labelled
-- ARGV: group
local stream, totals, group = KEYS[1], KEYS[2], ARGV[1]
local known = redis.call('HMGET', totals, 'entries', 'pairs', 'committed_entries', 'committed_pairs',
    'dead_entries', 'dead_pairs', 'waiting_bytes', 'kept_bytes', 'first_entries', 'first_pairs', 'resets')
for at = 1, 11 do
    known[at] = tonumber(known[at] or '0')
end
local entries, written, committed_entries, committed_pairs = known[1], known[2], known[3], known[4]
-- What was there at the last reset is out of the account, but not out of the ids.
local first_entries, first_pairs = known[9], known[10]
local length = redis.call('XLEN', stream)
local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
if first then
    length = length - redis.call('ZCOUNT', KEYS[8], integer(ordinal_of(first[1])), '+inf')
end
local pending = redis.call('XPENDING', stream, group)[1]
local undelivered = first_undelivered(stream, group)

-- Only commits and trimming take entries out. What was trimmed while a worker holds it isn't lost yet: the worker may
-- still commit it. That is looked into only when something was trimmed, for it walks over all that is pending.
local lost_entries, lost_pairs, trimmed_pending = math.max(0, entries - committed_entries - length), 0, 0
if lost_entries > 0 then
    local first_ms, first_seq = math.huge, math.huge
    if first then
        first_ms, first_seq = parts(first[1])
    end
    local pending_pairs, after = 0, '-'
    while true do
        local page = redis.call('XPENDING', stream, group, after, '+', 1000)
        if #page == 0 then
            break
        end
        for _, state in ipairs(page) do
            after = '(' .. state[1]
            pending_pairs = pending_pairs + pairs_of(state[1])
            local ms, seq = parts(state[1])
            if ms < first_ms or (ms == first_ms and seq < first_seq) then
                trimmed_pending = trimmed_pending + 1
            end
        end
    end
    local delivered = written
    if undelivered then
        for at = 1, #undelivered[2], 2 do
            if undelivered[2][at] == 'c' then
                delivered = tonumber(undelivered[2][at + 1])
            end
        end
    end
    lost_entries = math.max(0, lost_entries - trimmed_pending)
    lost_pairs = math.max(0, delivered - committed_pairs - pending_pairs)
end

-- {received, joined, duplicates, invalid, pairs expired, pairs that found no room, pairs that wait, labels in the
-- stream, early ones, ids that are labelled}. All that ever came is received, whoever wrote it; see `CountedLabels`.
local function label_counts(labels, label_totals, unlabelled, early, labelled)
    local known = redis.call('HMGET', label_totals,
        'requeued', 'joined', 'duplicates', 'invalid', 'expired', 'overflow')
    for at = 1, 6 do
        known[at] = tonumber(known[at] or '0')
    end
    local added = 0
    if redis.call('EXISTS', labels) == 1 then
        local info = redis.call('XINFO', 'STREAM', labels)
        for at = 1, #info, 2 do
            if info[at] == 'entries-added' then
                added = info[at + 1]
            end
        end
    end
    return {added - known[1], known[2], known[3], known[4], known[5], known[6], redis.call('HLEN', unlabelled),
        redis.call('XLEN', labels), redis.call('HLEN', early), redis.call('ZCARD', labelled)}
end

local mark = watermark(stream, totals, group, undelivered)
local time = redis.call('TIME')
return {
    {entries - first_entries, written - first_pairs, committed_entries - first_entries,
     committed_pairs - first_pairs, lost_entries, lost_pairs, known[5], known[6],
     pending, length - (pending - trimmed_pending), known[7], known[8], known[11]},
    integer(mark),
    time,
    redis.call('HGETALL', KEYS[3]),
    redis.call('HGETALL', KEYS[4]),
    redis.call('HGETALL', KEYS[5]),
    redis.call('GET', KEYS[6]),
    redis.call('HGETALL', KEYS[7]),
    redis.call('HGETALL', KEYS[9]),
    label_counts(KEYS[10], KEYS[11], KEYS[12], KEYS[13], KEYS[14]),
}
"""
)

ACCOUNTS: Final = """
-- KEYS: accounts, bases, totals.  Returns the first two whole, and how often the partition was reset.
return {
    redis.call('HGETALL', KEYS[1]),
    redis.call('HGETALL', KEYS[2]),
    tonumber(redis.call('HGET', KEYS[3], 'resets') or '0'),
}
"""

LATCH: Final = """
-- KEYS: latch, totals;  ARGV: payload, resets that the payload was worked out under
-- Returns what is latched, empty if nothing is: what was read before a reset must not outlive it.
if (redis.call('HGET', KEYS[2], 'resets') or '0') == ARGV[2] then
    redis.call('SET', KEYS[1], ARGV[1], 'NX')
end
return redis.call('GET', KEYS[1]) or ''
"""

# A kill switch must work where memory is out, too, so the next two may write then. Both write a few bytes.

CONTROL: Final = """#!lua flags=allow-oom
-- KEYS: controls, their history;  ARGV: expected (empty: none), new, most that are kept
-- Returns 1 if `new` is in force, 0 if something else than `expected` was.
local found = redis.call('GET', KEYS[1]) or ''
if found == ARGV[2] then
    return 1
end
if found ~= ARGV[1] then
    return 0
end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('LPUSH', KEYS[2], ARGV[2])
redis.call('LTRIM', KEYS[2], 0, tonumber(ARGV[3]) - 1)
return 1
"""

REPORT: Final = """#!lua flags=allow-oom
-- KEYS: watchers;  ARGV: name, version of the controls, milliseconds after which a silent one is forgotten
-- Stored as 'version ms'. Returns 1.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. string.format('%.0f', now))
if redis.call('HLEN', KEYS[1]) > 1 then
    local all = redis.call('HGETALL', KEYS[1])
    for at = 1, #all, 2 do
        if tonumber(string.match(all[at + 1], ' (%d+)$')) < now - tonumber(ARGV[3]) then
            redis.call('HDEL', KEYS[1], all[at])
        end
    end
end
return 1
"""

CONTROL_STATUS: Final = """
-- KEYS: controls, their history, watchers
return {
    redis.call('GET', KEYS[1]),
    redis.call('LRANGE', KEYS[2], 0, -1),
    redis.call('HGETALL', KEYS[3]),
    redis.call('TIME'),
}
"""

# What concerns experiments (see `experiments`). All but RESET work on the home partition. The first two write little,
# and may where memory is out: a commit frees memory, and must not wait behind a note on it.

REMEMBER: Final = """#!lua flags=allow-oom
-- KEYS: history;  ARGV: kind, record, ms at which the record's facts were read, most that are kept
-- Appends the record unless the last one is of the same kind, or later than what this one rests on: of two processes
-- that read at about the same time, the slower must not turn the history back.
-- Returns {1 or 0 whether it was, id, kind, record of the last one}, or {0} where there is none.
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last and (last[2][2] == ARGV[1] or tonumber(string.match(last[1], '^(%d+)')) >= tonumber(ARGV[3])) then
    return {0, last[1], last[2][2], last[2][4]}
end
local id = redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[4], '*', 'k', ARGV[1], 'r', ARGV[2])
return {1, id, ARGV[1], ARGV[2]}
"""

SEEN: Final = """#!lua flags=allow-oom
-- KEYS: seen;  ARGV: most values of a side, (side, value, first ms, last ms)…
-- A field is 'side value', or 'side' for all values past the most; it holds 'first last'. Both only ever widen, so that
-- saying it again changes nothing. Returns 1.
local known = {}
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    local side = string.match(field, '^(%S+) ')
    if side then
        known[side] = (known[side] or 0) + 1
    end
end
for at = 2, #ARGV, 4 do
    local side, first, last = ARGV[at], ARGV[at + 2], ARGV[at + 3]
    local field = side .. ' ' .. ARGV[at + 1]
    local held = redis.call('HGET', KEYS[1], field)
    if not held then
        if (known[side] or 0) < tonumber(ARGV[1]) then
            known[side] = (known[side] or 0) + 1
        else
            field = side
            held = redis.call('HGET', KEYS[1], field)
        end
    end
    if held then
        local from, to = string.match(held, '^(%d+) (%d+)$')
        first = tonumber(from) < tonumber(first) and from or first
        last = tonumber(to) > tonumber(last) and to or last
    end
    redis.call('HSET', KEYS[1], field, first .. ' ' .. last)
end
return 1
"""

RESET: Final = (
    _COMMON
    + """
-- KEYS: pairs, totals, index, kept, dead, dead sizes, states, versions, accounts, bases, slots, latch, seen, controls,
--       history, labels, their totals, unlabelled, its expiry, early, its expiry, labelled
-- ARGV: group, number of this reset, whether this is home, kind and record for the history, most records
-- Forgets what was counted. What stays: the clock and the ordinal, since ids must not go back; the sequences, by which
-- a repetition is known; the accounts, which proxies carry on, with what they say now as the base to count from.
-- Returns 1 when done (or done before), 0 where entries wait to be committed, 2 where the experiment runs.
local stream, totals, group = KEYS[1], KEYS[2], ARGV[1]
if tonumber(redis.call('HGET', totals, 'resets') or '0') >= tonumber(ARGV[2]) then
    return 1
end
if ARGV[3] == '1' then
    local read, controls = pcall(cjson.decode, redis.call('GET', KEYS[14]) or '{}')
    if not read or type(controls) ~= 'table' or controls['stopped'] ~= true then
        return 2
    end
end
if redis.call('XPENDING', stream, group)[1] > 0 or first_undelivered(stream, group) then
    return 0
end
redis.call('XTRIM', stream, 'MAXLEN', '0')
for at = 3, 8 do
    redis.call('DEL', KEYS[at])
end
redis.call('DEL', KEYS[10], KEYS[11], KEYS[12], KEYS[13])
-- The label stream goes with its group, which is made anew, and so does what workers hold of it: they are told so.
for at = 16, 22 do
    redis.call('DEL', KEYS[at])
end
local known = redis.call('HMGET', totals, 'entries', 'pairs')
local entries, written = known[1] or '0', known[2] or '0'
redis.call('HSET', totals, 'first_entries', entries, 'first_pairs', written, 'committed_entries', entries,
    'committed_pairs', written, 'dead_entries', '0', 'dead_pairs', '0', 'dead_bytes', '0', 'waiting_bytes', '0',
    'kept_bytes', '0', 'resets', ARGV[2])
local accounts = redis.call('HGETALL', KEYS[9])
for at = 1, #accounts, 2 do
    redis.call('HSET', KEYS[10], accounts[at], accounts[at + 1])
end
if ARGV[3] == '1' then
    redis.call('XADD', KEYS[15], 'MAXLEN', ARGV[6], '*', 'k', ARGV[4], 'r', ARGV[5])
end
return 1
"""
)
"""Home is reset first: a worker of another partition that asks for slots meanwhile gets new ones, and what it counts
with them is forgotten with its partition's reset, or counted after it."""

# Labels that come later (see `labels`). A label is in one of three places: in the stream, until a worker has dealt with
# it; among the early ones, until its pair is committed; or gone. A pair waits among the unlabelled. Who is there first
# is found by who comes second, in the one script that moves it, so that they can't miss each other.

MAKE_LABEL_GROUP: Final = """
-- KEYS: labels;  ARGV: group.  What has been dealt with is deleted, so the group begins at the beginning.
if redis.call('EXISTS', KEYS[1]) == 1 then
    for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
        if info[2] == ARGV[1] then
            return 0
        end
    end
end
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
return 1
"""

ADD_LABELS: Final = """
-- KEYS: labels;  ARGV: most, (id, truth)…
for at = 2, #ARGV, 2 do
    redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[1], '*', 'id', ARGV[at], 'truth', ARGV[at + 1])
end
return 1
"""

FIND_UNLABELLED: Final = """
-- KEYS: unlabelled, its expiry;  ARGV: ids…
-- Returns {{record, expiry ms}, …}, both empty strings where nothing waits under the id.
local found = {}
for at, id in ipairs(ARGV) do
    found[at] = {redis.call('HGET', KEYS[1], id) or '', redis.call('ZSCORE', KEYS[2], id) or ''}
end
return found
"""

JOIN: Final = """
-- KEYS: labels, their totals, unlabelled, its expiry, early, its expiry, labelled, states, versions
-- ARGV: group, worker, version to write (empty: there is no state), version expected, state, most early ones,
--       ms that an early one waits, number of labels, (entry, what, id, truth)…
-- What is 'join': the state includes it; 'keep': no pair waits for it yet; 'late'; 'invalid': can't be read.
-- Returns {1, entries…} when done (or done before), with those that must be looked at again, since their pair has come;
-- {0, entries…} with those that are no longer the worker's; {3} when a pair to be joined is no longer there; {2} when
-- the worker's state was written by somebody else. Nothing was stored but for {1}.
local labels, totals, unlabelled, expiry = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local early, early_expiry, labelled, states, versions = KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local group, worker, version = ARGV[1], ARGV[2], ARGV[3]

-- Fails here, before anything is written, where stream or group are gone.
redis.call('XPENDING', labels, group)
local again, lost, gone = {1}, {0}, false
local done = false
if version ~= '' then
    local held = redis.call('HGET', versions, worker) or ''
    done = held == version
    if not done and held ~= ARGV[4] then
        return {2}
    end
end
for at = 9, #ARGV, 4 do
    local mine = #redis.call('XPENDING', labels, group, ARGV[at], ARGV[at], 1, worker) > 0
    if done and mine then
        again[#again + 1] = ARGV[at]
    elseif not mine then
        lost[#lost + 1] = ARGV[at]
    elseif ARGV[at + 1] == 'join' and redis.call('HEXISTS', unlabelled, ARGV[at + 2]) == 0 then
        gone = true
    end
end
if done then
    return again
end
if #lost > 1 then
    return lost
end
if gone then
    return {3}
end

local function integer(value)
    return string.format('%.0f', value)
end

local counted = {joined = 0, duplicates = 0, invalid = 0}
for at = 9, #ARGV, 4 do
    local entry, what, id, truth = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
    if what == 'keep' and redis.call('HEXISTS', unlabelled, id) == 1 then
        again[#again + 1] = entry
    else
        -- The first write, for it frees memory: it is allowed where memory is out, and with it the rest.
        redis.call('XACK', labels, group, entry)
        redis.call('XDEL', labels, entry)
        local arrived = tonumber(string.match(entry, '^(%d+)'))
        if what == 'join' then
            counted.joined = counted.joined + 1
            redis.call('HDEL', unlabelled, id)
            redis.call('ZREM', expiry, id)
            redis.call('ZADD', labelled, integer(arrived + tonumber(ARGV[7])), id)
        elseif what == 'invalid' then
            counted.invalid = counted.invalid + 1
        elseif what == 'keep' then
            if redis.call('ZSCORE', labelled, id) or redis.call('HEXISTS', early, id) == 1 then
                counted.duplicates = counted.duplicates + 1
            else
                redis.call('HSET', early, id, integer(arrived) .. ' ' .. truth)
                redis.call('ZADD', early_expiry, integer(arrived + tonumber(ARGV[7])), id)
            end
        end
    end
end
for name, count in pairs(counted) do
    if count > 0 then
        redis.call('HINCRBY', totals, name, count)
    end
end
for _ = 1, redis.call('HLEN', early) - tonumber(ARGV[6]) do
    redis.call('HDEL', early, redis.call('ZPOPMIN', early_expiry)[1] or '')
end
for _ = 1, redis.call('ZCARD', labelled) - tonumber(ARGV[6]) do
    redis.call('ZPOPMIN', labelled)
end
if version ~= '' then
    redis.call('HSET', states, worker, ARGV[5])
    redis.call('HSET', versions, worker, version)
end
return again
"""

EXPIRE_LABELS: Final = (
    _COMMON
    + """
-- KEYS: pairs, totals, labels, their totals, unlabelled, its expiry, early, its expiry, labelled;  ARGV: group, most
-- Each side waits by the clock of the other: a pair while labels that came in time may still be in the stream, a label
-- while pairs may be. However long workers were away, what is joined does not depend on it. Returns how many are gone.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local oldest = redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', 1)[1]
local read = oldest and math.min(now, (parts(oldest[1]))) or now
local written = watermark(KEYS[1], KEYS[2], ARGV[1], first_undelivered(KEYS[1], ARGV[1]))

local function due(index, before)
    return redis.call('ZRANGEBYSCORE', index, '-inf', '(' .. integer(before), 'LIMIT', 0, ARGV[2])
end

local gone = 0
for _, id in ipairs(due(KEYS[6], read)) do
    redis.call('ZREM', KEYS[6], id)
    gone = gone + redis.call('HDEL', KEYS[5], id)
end
if gone > 0 then
    redis.call('HINCRBY', KEYS[4], 'expired', gone)
end
for _, id in ipairs(due(KEYS[8], written)) do
    redis.call('ZREM', KEYS[8], id)
    gone = gone + redis.call('HDEL', KEYS[7], id)
end
for _, id in ipairs(due(KEYS[9], written)) do
    gone = gone + redis.call('ZREM', KEYS[9], id)
end
return gone
"""
)
