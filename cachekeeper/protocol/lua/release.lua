-- The lease holder gives up (its load failed). Delete the lease, so that no reader waits until it expires.
-- KEYS: M.  ARGV: nonce.  Returns {'released'} | {'lost'}
if redis.call('HGET', KEYS[1], 'l') ~= ARGV[1] then return {'lost'} end
redis.call('HDEL', KEYS[1], 'l', 'lx')
return {'released'}
