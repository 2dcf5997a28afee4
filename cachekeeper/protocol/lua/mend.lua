-- M is not a hash, so cachekeeper did not write it: delete it. That is safe, because any M may vanish at any time.
-- Another client may have mended it meanwhile: a hash stays, with its lease or deadline.
-- KEYS: M.  Returns {'mended'} | {'whole'}
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'hash' or kind == 'none' then return {'whole'} end
redis.call('DEL', KEYS[1])
return {'mended'}
