-- Read a key that other services write, too. A late SET by another service must not outlive the deadline.
-- KEYS: K, M.  Returns {'found', value} | {'missing'} | {'ended'} | {'damaged'}
local d = redis.call('HGET', KEYS[2], 'd')
if d and tonumber(d) <= clock() then
  redis.call('DEL', KEYS[1])
  return {'ended'}
end
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then return {'missing'} end
if kind ~= 'string' then return {'damaged'} end
return {'found', redis.call('GET', KEYS[1])}
