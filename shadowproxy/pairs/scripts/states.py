"""States: committed with the entries that they include, taken over, and read."""

from __future__ import annotations

from typing import Final

from shadowproxy.pairs.scripts.common import COMMON

_KEEP_EXEMPLARS: Final = """
-- Store a worker's boards, and the records that they gained and lost, from ARGV[at] on; returns what is behind them.
local function keep_exemplars(exemplars, records, worker, at)
    if ARGV[at] ~= '' then
        redis.call('HSET', exemplars, worker, ARGV[at])
    end
    at = at + 2
    for _ = 1, tonumber(ARGV[at - 1]) do
        redis.call('HSET', records, ARGV[at], ARGV[at + 1])
        at = at + 2
    end
    at = at + 1
    for _ = 1, tonumber(ARGV[at - 1]) do
        redis.call('HDEL', records, ARGV[at])
        at = at + 1
    end
    return at
end
"""

COMMIT: Final = (
    COMMON
    + _KEEP_EXEMPLARS
    + """
-- KEYS: pairs, totals, states, versions, dead, dead sizes, index, kept,
--       labels, their totals, unlabelled, its expiry, early, its expiry, labelled, exemplars, their pairs,
--       firsts, their starts
-- ARGV: group, worker, version to write, version expected, state, most dead letters, their most bytes,
--       bytes of committed entries to keep, number of ids, ids…, number of dead, (id, reason)…,
--       the worker's boards ('' as they were), number of exemplars, (key, record)…, number of those gone, keys…,
--       number of pairs that may be their account's first, (account, start, tie, record)…,
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

at = keep_exemplars(KEYS[16], KEYS[17], worker, at)

-- Of each account the earliest pair waits, unless one has been counted: then all that may begin before it has come.
local firsts, starts = KEYS[18], KEYS[19]
at = at + 1
for _ = 1, tonumber(ARGV[at - 1]) do
    local account, start, tie = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    local waits = redis.call('HGET', firsts, account)
    local earliest = not waits
    if waits and waits ~= '' then
        local its_start, its_tie = string.match(waits, '^(%S+) (%S+)')
        local before = tonumber(start) - tonumber(its_start)
        earliest = before < 0 or (before == 0 and tie < its_tie)
    end
    if earliest then
        redis.call('HSET', firsts, account, start .. ' ' .. tie .. ' ' .. ARGV[at + 3])
        redis.call('ZADD', starts, start, account)
    end
    at = at + 4
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

ABSORB: Final = (
    _KEEP_EXEMPLARS
    + """
-- KEYS: pairs, states, versions, labels, exemplars, their pairs
-- ARGV: group, worker, version to write, version expected, state, number of others, (name, version)…,
--       boards and records as COMMIT has them, workers whose boards these include…
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
local behind = 7 + 2 * tonumber(ARGV[6])
for at = 7, behind - 1, 2 do
    if ARGV[at] == ARGV[2] or (redis.call('HGET', versions, ARGV[at]) or '') ~= ARGV[at + 1] then
        return 0
    end
end
redis.call('HSET', states, ARGV[2], ARGV[5])
redis.call('HSET', versions, ARGV[2], ARGV[3])
for at = keep_exemplars(KEYS[5], KEYS[6], ARGV[2], behind), #ARGV do
    redis.call('HDEL', KEYS[5], ARGV[at])
end
for at = 7, behind - 1, 2 do
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
    COMMON
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
