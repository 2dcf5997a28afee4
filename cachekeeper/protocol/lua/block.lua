-- Set a block or lengthen it. A duplicate or late event never shortens it, and an endless block stays endless.
-- KEYS: K.  ARGV: when it ends, '' for never.  Returns {'blocked'} | {'kept'} | {'over'}
local left = redis.call('PTTL', KEYS[1])
if left == -1 then return {'kept'} end
if ARGV[1] == '' then
  if left == -2 then redis.call('SET', KEYS[1], 'true') else redis.call('PERSIST', KEYS[1]) end
  return {'blocked'}
end
local ms = tonumber(ARGV[1]) - clock()
if ms <= 0 then return {'over'} end
if left >= ms then return {'kept'} end
-- A value of any type means blocked, so an existing key is only given more time. The end is passed as a point in time,
-- not as a duration: for the server, the script's start and a command in it can be a millisecond apart.
if left == -2 then redis.call('SET', KEYS[1], 'true', 'PXAT', ARGV[1]) else redis.call('PEXPIREAT', KEYS[1], ARGV[1]) end
return {'blocked'}
