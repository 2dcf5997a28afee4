-- What lies at M is none of ours: away with it, as any M may vanish at any time. Another client may have mended it meanwhile,
-- so a hash stays, and with it a lease or a deadline.
-- KEYS: M.  Returns {'mended'} | {'whole'}
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'hash' or kind == 'none' then return {'whole'} end
redis.call('DEL', KEYS[1])
return {'mended'}
