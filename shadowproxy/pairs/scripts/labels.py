"""Labels that come later.

Labels that come later (see `labels`). A label is in one of three places: in the stream, until a worker has dealt with
it; among the early ones, until its pair is committed; or gone. A pair waits among the unlabelled. Who is there first
is found by who comes second, in the one script that moves it, so that they can't miss each other.
"""

from __future__ import annotations

from typing import Final

from shadowproxy.pairs.scripts.common import COMMON

MAKE_LABEL_GROUP: Final = (
    COMMON
    + """
-- KEYS: labels;  ARGV: group.  What has been dealt with is deleted, so the group begins at the beginning.
if has_group(KEYS[1], ARGV[1]) then
    return 0
end
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
return 1
"""
)

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
    COMMON
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
