"""What ids mean, and the functions that several scripts begin with."""

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


COMMON: Final = """
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

local function has_group(stream, group)
    if redis.call('EXISTS', stream) == 1 then
        for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
            if info[2] == group then
                return true
            end
        end
    end
    return false
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
