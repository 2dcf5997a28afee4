-- Puts messages back on the lists that they came from, each as it was pushed.
-- KEYS: the record, its index.  ARGV: 'RPUSH' to have them taken next, 'LPUSH' to have them taken last. Then either ''
--   and delivery tags; or for how many seconds a message may be unacknowledged, and how many to put back at most.
-- Returns how many tags it has looked at. Returns an error if Redis refuses a write: then that message and all later
--   ones are unchanged.
local function restore(tag)
  -- Removes first, for the reason in take.lua.
  local taken_at = redis.call('ZSCORE', KEYS[2], tag)
  redis.call('ZREM', KEYS[2], tag)
  local record = redis.call('HGET', KEYS[1], tag)
  if not record then return end  -- acknowledged, or put back by another worker
  local tail, list = string.match(string.sub(record, -1024), '(,%s*"",%s*"([^"]*)"%])$')
  if not tail then return end  -- not written by cachekeeper
  local refused = redis.pcall(ARGV[1], list, string.sub(record, 2, -#tail - 1))
  if type(refused) == 'table' then
    if taken_at then redis.call('ZADD', KEYS[2], taken_at, tag) end
    return refused
  end
  redis.call('HDEL', KEYS[1], tag)
end

local tags = {unpack(ARGV, 3)}
if ARGV[2] ~= '' then
  local latest = redis.call('TIME')[1] - ARGV[2]
  tags = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', latest, 'LIMIT', 0, ARGV[3])
end
for _, tag in ipairs(tags) do
  local refused = restore(tag)
  if refused then return refused end
end
return #tags
