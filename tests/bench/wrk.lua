-- Sends the requests of a file in turn, and prints what came of them as one line of JSON. Written by messages.py.
local made, turn = {}, 0

function init(arguments)
    local file = assert(io.open(arguments[1], "rb"))
    while true do
        local length = file:read(8)
        if not length then break end
        made[#made + 1] = file:read(tonumber(length))
    end
    file:close()
end

function request()
    turn = turn % #made + 1
    return made[turn]
end

function done(summary, latency, _)
    local errors = summary.errors
    print(string.format(
        '\n{"requests": %d, "seconds": %.6f, "connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d, "p50": %.1f}',
        summary.requests, summary.duration / 1e6, errors.connect, errors.read, errors.write, errors.status,
        errors.timeout, latency:percentile(50)))
end
