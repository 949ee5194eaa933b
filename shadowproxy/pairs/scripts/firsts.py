"""The first pair of each account (see `firsts`): a hash of accounts, and a sorted set of those that wait, by start.

A field of the hash is an account; its value is empty where the account's pair has been counted, else `start tie record`
of the earliest pair so far. A pair of no known account has a field of its own, `?…`, while it waits. COMMIT puts them
there.
"""

from __future__ import annotations

from typing import Final

FIND_FIRSTS: Final = """
-- KEYS: firsts;  ARGV: accounts…
-- Returns for each: 'start tie' of the pair that waits, 'counted', or '' where there is none.
local found = {}
for at, account in ipairs(ARGV) do
    local held = redis.call('HGET', KEYS[1], account)
    if not held then
        found[at] = ''
    elseif held == '' then
        found[at] = 'counted'
    else
        found[at] = string.match(held, '^%S+ %S+')
    end
end
return found
"""

DUE_FIRSTS: Final = """
-- KEYS: firsts, starts;  ARGV: start, most, accounts that may be counted in all
-- Returns {account, 'start tie record'}… of pairs that began before the start, the earliest first. Where as many
-- accounts as may be are counted, pairs of others are forgotten.
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. ARGV[1], 'LIMIT', 0, ARGV[2])
local room = tonumber(ARGV[3]) - (redis.call('HLEN', KEYS[1]) - redis.call('ZCARD', KEYS[2]))
local found = {}
for at, account in ipairs(due) do
    if at <= room or string.sub(account, 1, 1) == '?' then
        found[at] = {account, redis.call('HGET', KEYS[1], account)}
    else
        redis.call('ZREM', KEYS[2], account)
        redis.call('HDEL', KEYS[1], account)
    end
end
return found
"""

SETTLE: Final = """
-- KEYS: firsts, starts, states, versions
-- ARGV: worker, version to write, version expected, state, (account, 'start tie')…
-- Returns 1 when stored (or stored before), 2 where the worker's state was written by somebody else, 3 where one of
-- these pairs doesn't wait any more. Nothing was stored but for 1.
local firsts, starts, states, versions = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local held = redis.call('HGET', versions, ARGV[1]) or ''
if held == ARGV[2] then
    return 1
end
if held ~= ARGV[3] then
    return 2
end
for at = 5, #ARGV, 2 do
    if string.match(redis.call('HGET', firsts, ARGV[at]) or '', '^%S+ %S+') ~= ARGV[at + 1] then
        return 3
    end
end
for at = 5, #ARGV, 2 do
    -- Frees memory, so it is allowed where memory is out, and with it the rest.
    redis.call('ZREM', starts, ARGV[at])
    if string.sub(ARGV[at], 1, 1) == '?' then
        redis.call('HDEL', firsts, ARGV[at])
    else
        redis.call('HSET', firsts, ARGV[at], '')
    end
end
redis.call('HSET', states, ARGV[1], ARGV[4])
redis.call('HSET', versions, ARGV[1], ARGV[2])
return 1
"""
