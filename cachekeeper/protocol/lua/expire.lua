-- Let K live no longer than a deadline. Of two deadlines, the earlier one stands.
-- KEYS: K, M.  ARGV: deadline, for how many ms it is remembered after it has passed.
-- Returns {'ended'} | {'limited'}
local now = clock()
local at = tonumber(ARGV[1])
local before = redis.call('HGET', KEYS[2], 'd')
if before and tonumber(before) <= at then at = tonumber(before) end
-- A reader that comes now must not be told of an earlier load: it might join that load. The value that the load brings
-- would not stand anyway.
redis.call('HDEL', KEYS[2], 'l', 'lx')
redis.call('HSET', KEYS[2], 'd', digits(at))
keep(KEYS[2], math.max(at - now, 0) + ARGV[2])
if at <= now then
  redis.call('DEL', KEYS[1])
  return {'ended'}
end
local left = redis.call('PTTL', KEYS[1])
if left == -1 or left > at - now then redis.call('PEXPIREAT', KEYS[1], digits(at)) end
return {'limited'}
