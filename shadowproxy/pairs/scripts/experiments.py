"""Experiments as a whole.

What concerns experiments (see `experiments`). All but RESET work on the home partition. The others write little,
and may where memory is out: a commit frees memory, and must not wait behind a note on it.
"""

from __future__ import annotations

from typing import Final

from shadowproxy.pairs.scripts.common import COMMON

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

TRAIL: Final = """#!lua flags=allow-oom
-- KEYS: trail, totals;  ARGV: resets that the point was worked out under, its pairs, point, most that are kept,
--       percent of the last one's pairs that the next has to have
-- Appends the point if it is due and rests on what is counted now. Returns how many pairs the last one then rests on.
if (redis.call('HGET', KEYS[2], 'resets') or '0') ~= ARGV[1] then
    return 0
end
local found = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local last = found and tonumber(string.match(found[1], '^(%d+)')) or 0
local pairs_now = tonumber(ARGV[2])
if pairs_now <= last or pairs_now * 100 < last * tonumber(ARGV[5]) then
    return last
end
redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[4], ARGV[2] .. '-0', 'r', ARGV[3])
return pairs_now
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

CALIBRATE: Final = """
-- KEYS: calibration, totals;  ARGV: resets that it was worked out under, ms of the newest start that was seen, ms of
--       grace, (guardrail, calibration)…
-- Writes those that are not there, each as 'ms from which it holds, calibration'. Returns all.
if (redis.call('HGET', KEYS[2], 'resets') or '0') == ARGV[1] then
    local now = redis.call('TIME')
    local ms = now[1] * 1000 + math.floor(now[2] / 1000)
    local since = string.format('%.0f', math.max(ms, tonumber(ARGV[2])) + tonumber(ARGV[3]))
    for at = 4, #ARGV, 2 do
        redis.call('HSETNX', KEYS[1], ARGV[at], since .. ' ' .. ARGV[at + 1])
    end
end
return redis.call('HGETALL', KEYS[1])
"""

ORIGIN: Final = """#!lua flags=allow-oom
-- KEYS: origin;  ARGV: a time
-- Keeps the first time that anybody says. Returns the one that is kept.
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
"""

RESET: Final = (
    COMMON
    + """
-- KEYS: pairs, totals, index, kept, dead, dead sizes, states, versions, accounts, bases, slots, latch, seen, controls,
--       history, labels, their totals, unlabelled, its expiry, early, its expiry, labelled, exemplars,
--       their pairs, origin, calibration, firsts, their starts, trail
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
for at = 16, 29 do
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
