"""Entries: written, given to workers, taken over."""

from __future__ import annotations

from typing import Final

from shadowproxy.pairs.scripts.common import COMMON

APPEND: Final = (
    COMMON
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
    COMMON
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

MAKE_GROUP: Final = (
    COMMON
    + """
-- KEYS: pairs, totals, kept;  ARGV: group
-- The group begins at the stream's beginning, so nothing may be there that was committed already. Returns whether it
-- was made.
if has_group(KEYS[1], ARGV[1]) then
    return 0
end
while evict(KEYS[1], KEYS[3]) do end
redis.call('HSET', KEYS[2], 'kept_bytes', 0)
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
return 1
"""
)

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

WATERMARK: Final = (
    COMMON
    + """
-- KEYS: pairs, totals;  ARGV: group.  Returns the watermark in ms.
return integer(watermark(KEYS[1], KEYS[2], ARGV[1], first_undelivered(KEYS[1], ARGV[1])))
"""
)
