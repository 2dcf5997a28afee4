-- A block only grows: a duplicate or late one never shortens its life, and an endless one stays.
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
-- Whatever type lies there means blocked, so an existing key is only given more time. The end is given as it is, not as
-- a distance: a server takes the time of the script's start and that of a command for two times, a millisecond apart.
if left == -2 then redis.call('SET', KEYS[1], 'true', 'PXAT', ARGV[1]) else redis.call('PEXPIREAT', KEYS[1], ARGV[1]) end
return {'blocked'}
