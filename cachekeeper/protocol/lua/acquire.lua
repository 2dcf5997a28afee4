-- A reader missed. Decide whether it loads.
-- KEYS: K, M, and F if K belongs to a text view.  ARGV: nonce, lease in ms, '1' to take the lease although K exists
--   (early refresh, repair of a damaged K); with F also the text, and how long its lease plus the value filled under it
--   may live, in ms.
-- Returns {'found', value} | {'damaged'} | {'absent'} | {'granted'} | {'taken', nonce, ms left}
local refresh = ARGV[3] == '1'
local m = redis.call('HMGET', KEYS[2], 'l', 'lx', 'ax', 'd')
if not refresh then
  local kind = redis.call('TYPE', KEYS[1]).ok
  if kind == 'string' then return {'found', redis.call('GET', KEYS[1])} end
  if kind ~= 'none' then return {'damaged'} end
end
local now = clock()
if m[3] and not refresh and tonumber(m[3]) > now then return {'absent'} end
-- Each nonce is used in one acquire only: no client sends an acquire again (redis_clients.py explains what a late first
-- copy would do).
if m[1] and m[1] ~= ARGV[1] and tonumber(m[2]) > now then
  return {'taken', m[1], tonumber(m[2]) - now}
end
local ends = now + ARGV[2]
-- A reader that comes after the deadline must not be told of a load from before it: it might join that load.
if m[4] and tonumber(m[4]) > now then ends = math.min(ends, tonumber(m[4])) end
-- Registered in the same step as the lease, so that no lease is without it. M of a text holds only the lease, so M ends
-- with the lease. A fill that comes later, perhaps after F has forgotten the text, finds no lease.
if KEYS[3] then register(KEYS[3], ARGV[4], tonumber(ARGV[5])) end
redis.call('HSET', KEYS[2], 'l', ARGV[1], 'lx', digits(ends))
keep(KEYS[2], tonumber(ARGV[2]))
return {'granted'}
