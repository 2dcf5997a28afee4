-- Takes one message: moves it from its list to the record of unacknowledged messages, or changes nothing.
-- KEYS: the record, its index, then lists.  ARGV: the delivery tag, then for each list the text that follows the item
--   in its record, or '' for a list whose messages are not acknowledged.
-- Returns {number of the list, item}; nil if all lists are empty; an error if Redis refuses a write: then nothing has
--   changed.
--
-- It removes the message from the list first. At `maxmemory` Redis refuses a script's first write if that write adds
-- something, and refuses no later write. A script that recorded first would be refused, and a full broker would stay
-- full forever.
for number = 3, #KEYS do
  local item, tail = redis.call('RPOP', KEYS[number]), ARGV[number - 1]
  if item and tail ~= '' then
    local refused = redis.pcall('HSET', KEYS[1], ARGV[1], '[' .. item .. tail)
    if type(refused) ~= 'table' then
      local now = redis.call('TIME')
      refused = redis.pcall('ZADD', KEYS[2], now[1] .. '.' .. string.format('%06d', now[2]), ARGV[1])
      if type(refused) == 'table' then redis.call('HDEL', KEYS[1], ARGV[1]) end
    end
    if type(refused) == 'table' then
      redis.call('RPUSH', KEYS[number], item)
      return refused
    end
  end
  if item then return {number - 2, item} end
end
return false
