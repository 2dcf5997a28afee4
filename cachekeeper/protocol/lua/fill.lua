-- The lease holder writes what it has loaded.
-- KEYS: K, M.  ARGV: nonce, 'versioned' | 'unversioned' | 'absent', value, version, ttl in ms (for 'absent': of the
--   absent flag), ms a marker lives, the value's own end or '', '1' to keep a K that another service wrote meanwhile.
-- Returns {'stored'} | {'lost'} | {'stale', version known} | {'ended'}
local m = redis.call('HMGET', KEYS[2], 'l', 'v', 'd')
-- An event, an invalidation or another reader came after the acquire: the loaded value may be older than that.
if m[1] ~= ARGV[1] then return {'lost'} end
-- Other services write K, too:  acquire (K absent) · load: absent · a login elsewhere: SET K NX · this fill.
-- Their value is newer.
if ARGV[8] == '1' and redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HDEL', KEYS[2], 'l', 'lx')
  return {'lost'}
end
local kind = ARGV[2]
if kind == 'absent' then
  redis.call('DEL', KEYS[1])
  redis.call('HDEL', KEYS[2], 'l', 'lx')
  redis.call('HSET', KEYS[2], 'ax', digits(clock() + ARGV[5]))
  keep(KEYS[2], tonumber(ARGV[5]))
  return {'stored'}
end
redis.call('HDEL', KEYS[2], 'l', 'lx', 'ax')
if kind == 'versioned' and m[2] and tonumber(ARGV[4]) < tonumber(m[2]) then return {'stale', m[2]} end
local left = room(ARGV[5], m[3], ARGV[7])
if left <= 0 then
  redis.call('DEL', KEYS[1])
  return {'ended'}
end
redis.call('SET', KEYS[1], ARGV[3], 'PX', digits(left))
if kind == 'versioned' then
  redis.call('HSET', KEYS[2], 'v', ARGV[4])
else
  -- K now holds a value of unknown age: if a version were kept here, an older event could overwrite the value.
  redis.call('HDEL', KEYS[2], 'v')
end
keep(KEYS[2], math.max(left, tonumber(ARGV[6])))
return {'stored'}
