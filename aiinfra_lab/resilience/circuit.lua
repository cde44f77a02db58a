-- One step of a circuit that several processes share. All of it runs as one step in the server.
--
-- KEYS[1]  hash: state, epoch, until (ms, server's clock; -1: for ever), attempt,
--          calls, failures, slow (results of the probes), asked (ms; end of a Retry-After)
-- KEYS[2]  sorted set: the leases of probes that are out, by the end of the lease
-- ARGV     operation, epoch that the caller knows, then what the operation takes
--
-- The epoch is the number of the state. An operation on another epoch than the stored one changes
-- nothing, and each answer is the record as it stands, so the caller learns what is true. A new
-- record begins with the server's time in microseconds: later than any record that was lost.

local circuit, probes = KEYS[1], KEYS[2]
local operation, epoch = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function whole(number) return string.format('%.0f', number) end
local function stored(field) return redis.call('HGET', circuit, field) end
local function number(field) return tonumber(stored(field) or '0') end

local known = stored('epoch') or '0'
local current = known == epoch
local done = 0

if operation == 'turn' and (current or epoch == '*') then
    local state, lasts, attempt, keep, channel, name = unpack(ARGV, 3)
    local ends = tonumber(lasts) < 0 and -1 or now + lasts
    local next_epoch = known == '0' and time[1] * 1000000 + time[2] or known + 1
    redis.call('DEL', circuit, probes)
    redis.call('HSET', circuit, 'state', state, 'epoch', whole(next_epoch), 'until', whole(ends),
        'attempt', attempt)
    redis.call('PEXPIRE', circuit, keep)
    redis.call('PUBLISH', channel, name)
    done = 1
elseif operation == 'take' and current and stored('state') == 'half_open' then
    local holder, permits, lease = unpack(ARGV, 3)
    local ends = number('until')
    redis.call('ZREMRANGEBYSCORE', probes, '-inf', now)
    local taken = number('calls') + redis.call('ZCARD', probes)
    if (ends < 0 or now < ends) and taken < tonumber(permits) then
        redis.call('ZADD', probes, now + lease, holder)
        redis.call('PEXPIRE', probes, redis.call('PTTL', circuit))
        done = 1
    end
elseif operation == 'renew' and current then
    local lease = ARGV[3]
    for i = 4, #ARGV do
        redis.call('ZADD', probes, 'XX', now + lease, ARGV[i])
    end
elseif operation == 'settle' and current then
    local holder, code, pause = unpack(ARGV, 3)
    -- A lease that was given to somebody else has no result left to give.
    done = redis.call('ZREM', probes, holder)
    if done == 1 and code ~= '' then
        redis.call('HINCRBY', circuit, 'calls', 1)
        redis.call('HINCRBY', circuit, 'failures', code % 2)
        redis.call('HINCRBY', circuit, 'slow', math.floor(code / 2))
        redis.call('HSET', circuit, 'asked', whole(math.max(number('asked'), now + pause)))
    end
end

local ends = number('until')
return {
    done, stored('state') or 'closed', stored('epoch') or '0',
    ends < 0 and -1 or whole(math.max(0, ends - now)), stored('attempt') or '0',
    number('calls'), number('failures'), number('slow'),
    whole(math.max(0, number('asked') - now)), redis.call('ZCOUNT', probes, now, '+inf'),
}
