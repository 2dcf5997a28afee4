-- Put before every script of this folder. K is a key, and M is the metadata beside it, a hash:
--   v   version of the last change known, decimal text     l   nonce of the lease        lx  when the lease ends
--   d   deadline: K lives no longer than this              ax  until when 'known absent' holds
-- All times are milliseconds since 1970 on this server's own clock.

local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Lua prints large numbers as 1.7e+12, but Redis needs all digits.
local function digits(number)
  return string.format('%.0f', number)
end

-- Let M live for at least `ms` more. Never shortens its life: M must outlive K, and must not end before a marker does.
local function keep(meta, ms)
  if redis.call('PTTL', meta) < ms then
    redis.call('PEXPIRE', meta, digits(ms))
  end
end

-- How long a written value may live: its TTL, cut at a deadline and at the value's own end ('' if it has none).
local function room(ttl, deadline, ends)
  local left = tonumber(ttl)
  if deadline or ends ~= '' then
    local now = clock()
    if deadline then left = math.min(left, tonumber(deadline) - now) end
    if ends ~= '' then left = math.min(left, tonumber(ends) - now) end
  end
  return left
end
