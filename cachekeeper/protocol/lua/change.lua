-- Apply an event with a version.
-- KEYS: K, M.  ARGV: version, value, ttl in ms, ms a marker lives, the value's own end or ''.
-- Returns {'ignored'} | {'overwritten'} | {'marked'} | {'ended'}
local m = redis.call('HMGET', KEYS[2], 'v', 'd')
if m[1] and tonumber(m[1]) >= tonumber(ARGV[1]) then return {'ignored'} end
redis.call('HDEL', KEYS[2], 'l', 'lx', 'ax')
local left = room(ARGV[3], m[2], ARGV[5])
local outcome = 'marked'
-- Overwrite only a K that exists and whose version is known. Otherwise, after E2 and an eviction of M, the late E1
-- would write its old value where nothing is, and the value would stay.
if left > 0 and m[1] and redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', digits(left))
  outcome = 'overwritten'
else
  redis.call('DEL', KEYS[1])
  if left <= 0 then outcome = 'ended' end
end
redis.call('HSET', KEYS[2], 'v', ARGV[1])
keep(KEYS[2], math.max(left, tonumber(ARGV[4])))
return {outcome}
