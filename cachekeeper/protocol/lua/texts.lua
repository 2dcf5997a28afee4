-- Stands before `acquire` and `invalidate_within`: which texts of a view may be cached, or in flight. A Bloom filter, since
-- a name of 60 characters has 1,800 substrings, of which hardly one is cached, and each look for a key that is not there
-- costs more the larger the keyspace is. F, its key, says no only to a text that was not registered in the last `life`
-- milliseconds; and no lease on a text, with what is filled under it, lives longer than `life`. It may say yes to others.
--
-- F is one string, so it is evicted whole or not at all. It begins with three numbers of 20 digits: from when on it is
-- believed (nobody knows what an F before it held, so not before all that is over); the longest `life` of those who have
-- registered; and when the last one did. The rest are blocks of 128 bytes. Texts that begin with the same 4 characters share a block, so a
-- name asks for 4 blocks a character and not for each substring. Time is cut into slices of `life`. A block holds the slice
-- (modulo 256) of its last write, in one byte; 504 bits for the texts of that slice; an unused byte; and 504 bits for those
-- of the slice before.

local BLOCK, BITS, HEAD = 128, 504, 4
-- A new F has a block for every 32 keys of the server, and is made anew when there are more than four times as many. Where
-- texts begin in many different ways, it then says yes to a few in a hundred that are not there. 8 KB at least, 8 MB at most.
local KEYS_A_BLOCK, FEWEST, MOST = 32, 64, 65536
local PRIME = 4294967291 -- below 2^32, so that 263 times a hash is exact in a double
local DAY = 86400000
local MASK = {[0] = 1, 2, 4, 8, 16, 32, 64, 128}

-- Where the characters of a UTF-8 text begin, and where one behind them would.
local function edges_of(text)
  local edges, at = {}, 1
  while at <= #text do
    edges[#edges + 1] = at
    local lead = text:byte(at)
    at = at + (lead < 0x80 and 1 or lead < 0xE0 and 2 or lead < 0xF0 and 3 or 4)
  end
  edges[#edges + 1] = #text + 1
  return edges
end

-- The hash of a text, from that of a beginning of it.
local function hashed(hash, bytes, from, to)
  for at = from, to do hash = (hash * 263 + bytes[at]) % PRIME end
  return hash
end

-- F's three numbers and how many blocks it has; nil where there is none, or something that is none of ours.
local function filter_of(key)
  local head, size = redis.pcall('GETRANGE', key, 0, 59), redis.pcall('STRLEN', key)
  if type(head) ~= 'string' or size <= BLOCK or size % BLOCK > 0 then return nil end
  local from, life, newest = tonumber(head:sub(1, 20)), tonumber(head:sub(21, 40)), tonumber(head:sub(41, 60))
  if not (from and life and newest) then return nil end
  return {from = from, life = life, newest = newest, blocks = size / BLOCK - 1}
end

-- Whether the clock was set back so far that slices cannot be told apart any more: what has come since was registered with
-- times that are long past for those before.
local function set_back(filter, now)
  return now < filter.newest - filter.life
end

-- A block by the hash of a head, and where it stands in F.
local function block_of(key, blocks, hash)
  local at = BLOCK * (1 + hash % blocks)
  return redis.call('GETRANGE', key, at, at + BLOCK - 1), at
end

local function slice_of(now, life)
  return math.floor(now / life) % 256
end

-- Where a block has the bits of this slice and of the one before; nil for those that are over. A block may come from the next
-- slice: the server's clock was set back since it was written, by one life at most (see `set_back`). What it holds still
-- counts. One that seems to come from further ahead has not been written for long.
local function halves_of(block, slice)
  local age = (slice - block:byte(1)) % 256
  if age == 0 or age == 255 then return 2, 66 end
  if age == 1 then return nil, 2 end
  return nil, nil
end

-- An F as large as the server needs, in place of one that is too small, of a shorter `life`, or from before a clock was set
-- back. What that one held is over a life after its last registration, by a clock that was not set back.
local function new_filter(key, old, now, life, keys)
  local blocks = FEWEST
  while keys > KEYS_A_BLOCK * blocks and blocks < MOST do blocks = 2 * blocks end
  local from = now + life
  if old then
    life = math.max(old.life, life)
    from = math.max(old.from, math.max(old.newest, now) + life)
  end
  redis.call('SET', key, '')
  redis.call('SETRANGE', key, BLOCK * (1 + blocks) - 1, '\0')
  return {from = from, life = life, newest = now, blocks = blocks}
end

local function register(key, text, life)
  local now, keys = clock(), redis.call('DBSIZE')
  local filter = filter_of(key)
  local small = filter and keys > 4 * KEYS_A_BLOCK * filter.blocks and filter.blocks < MOST
  if not filter or small or life > filter.life or set_back(filter, now) then
    filter = new_filter(key, filter, now, life, keys)
  end
  life = filter.life
  local newest = math.max(filter.newest, now)
  redis.call('SETRANGE', key, 0, string.format('%020.0f%020.0f%020.0f', filter.from, life, newest))
  keep(key, math.max(DAY, 2 * life))
  local bytes, edges = {text:byte(1, -1)}, edges_of(text)
  local split = edges[math.min(HEAD + 1, #edges)]
  local head = hashed(0, bytes, 1, split - 1)
  local block, at = block_of(key, filter.blocks, head)
  local hash = hashed(head, bytes, split, #text)
  local slice = slice_of(now, life)
  -- A block that was never written is all zeros: it has no slice, though its first byte looks like slice 0. Written as if it
  -- came from the future, a text would not be forgotten before that slice comes round again.
  local mine, before
  if block:find('[^%z]') then mine, before = halves_of(block, slice) end
  if mine then slice = block:byte(1) end
  local bits = mine and {block:byte(mine, mine + 62)} or {string.rep('\0', 63):byte(1, -1)}
  for _, place in ipairs({hash % BITS, math.floor(hash / BITS) % BITS}) do
    local byte, mask = 1 + math.floor(place / 8), MASK[place % 8]
    if bits[byte] % (2 * mask) < mask then bits[byte] = bits[byte] + mask end
  end
  local old = before and block:sub(before, before + 62) or string.rep('\0', 63)
  redis.call('SETRANGE', key, at, string.char(slice, unpack(bits)) .. '\0' .. old)
end
