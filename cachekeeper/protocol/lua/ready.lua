-- All live blocks have been written. Set *ready*, but only if none was lost meanwhile: a flush or restart would have
-- removed the nonce, too.
-- KEYS: the warming key, the ready key.  ARGV: nonce.  Returns {'ready'} | {'lost'}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'lost'} end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], 'true')
return {'ready'}
