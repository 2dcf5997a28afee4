-- All live blocks have been written: say so, but only if nothing was lost meanwhile. A flush or restart took the nonce with it.
-- KEYS: the warming key, the ready key.  ARGV: nonce.  Returns {'ready'} | {'lost'}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'lost'} end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], 'true')
return {'ready'}
