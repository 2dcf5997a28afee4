-- Adds to each set the member that binds a queue to an exchange.
-- KEYS: the sets.  ARGV: the member.
for _, key in ipairs(KEYS) do
  redis.call('SREM', key, ARGV[1])  -- removes first, for the reason in take.lua
  redis.call('SADD', key, ARGV[1])
end
