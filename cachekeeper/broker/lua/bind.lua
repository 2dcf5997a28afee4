-- Notes in each set that an exchange leads to a queue.
-- KEYS: the sets.  ARGV: the member.
for _, key in ipairs(KEYS) do
  redis.call('SREM', key, ARGV[1])  -- removing comes first, as in take.lua
  redis.call('SADD', key, ARGV[1])
end
