-- A change without a version, or a dropped view: delete K and M, and with M the lease. A deadline stays.
-- KEYS: K, M.  Returns {'invalidated'}
redis.call('DEL', KEYS[1])
if redis.call('HEXISTS', KEYS[2], 'd') == 1 then
  redis.call('HDEL', KEYS[2], 'v', 'l', 'lx', 'ax')
else
  redis.call('DEL', KEYS[2])
end
return {'invalidated'}
