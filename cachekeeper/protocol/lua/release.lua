-- The lease holder gives up (its load failed), so that nobody waits for the lease to end by itself.
-- KEYS: M.  ARGV: nonce.  Returns {'released'} | {'lost'}
if redis.call('HGET', KEYS[1], 'l') ~= ARGV[1] then return {'lost'} end
redis.call('HDEL', KEYS[1], 'l', 'lx')
return {'released'}
