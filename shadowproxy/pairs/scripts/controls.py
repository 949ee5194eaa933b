"""What people say to the proxies.

A kill switch must work where memory is out, too, so the next two may write then. Both write a few bytes.
"""

from __future__ import annotations

from typing import Final

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
