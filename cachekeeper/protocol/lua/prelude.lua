-- Stands before every script of this folder. K is a key, M the metadata beside it, a hash:
--   v   version of the last change known, decimal text     l   nonce of the lease        lx  when the lease ends
--   d   deadline: K lives no longer                        ax  until when 'known absent' holds
-- All times are milliseconds since 1970 on this server's own clock.

local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Lua prints large numbers as 1.7e+12; Redis wants the digits.
local function digits(number)
  return string.format('%.0f', number)
end

-- M lives at least `ms` longer. Never shortens: M must not end before K, nor before a marker has served its time.
local function keep(meta, ms)
  if redis.call('PTTL', meta) < ms then
    redis.call('PEXPIRE', meta, digits(ms))
  end
end

-- For how long a write may stand: its TTL, cut at a deadline and at the value's own end ('' where it has none).
local function room(ttl, deadline, ends)
  local left = tonumber(ttl)
  if deadline or ends ~= '' then
    local now = clock()
    if deadline then left = math.min(left, tonumber(deadline) - now) end
    if ends ~= '' then left = math.min(left, tonumber(ends) - now) end
  end
  return left
end
