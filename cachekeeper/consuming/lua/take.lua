-- Takes one message: off its list and into the record of what is unacknowledged, or neither.
-- KEYS: the record, its index, then lists.  ARGV: the delivery tag, then for each list what stands behind the item in
--   its record, or '' for a list whose messages nobody acknowledges.
-- Returns {number of the list, item}; nil where all are empty; an error where it is refused, and all is as before.
--
-- Off the list first: at `maxmemory` Redis refuses a script's first write if it adds something, and no later one. A
-- script that recorded first would be refused, and a full broker stay full for ever.
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
