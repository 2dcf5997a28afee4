-- Put before `acquire` and `invalidate_within`. Records which texts of a view may be cached or in flight, in a Bloom
-- filter: a name of 60 characters has 1,800 substrings, of which hardly any is cached, and each lookup of an absent key
-- costs more the larger the keyspace is. F, the filter's key, says no only to a text that was not registered in the
-- last `life` milliseconds. A lease on a text plus the value filled under it never lives longer than `life`. F may say
-- yes to any other text.
--
-- F is one string, so it is evicted whole or not at all. It begins with three numbers of 20 digits:
--   1. The time from which F is trusted. An earlier F may have held texts that this one does not know, so this one is
--      not trusted until all of those are over.
--   2. The longest `life` of all registrations.
--   3. The time of the last registration.
-- The rest are blocks of 128 bytes. Texts that begin with the same 4 characters share a block, so a name needs 4 blocks
-- per character, not one per substring. Time is cut into slices of `life`. A block holds, in this order: the slice
-- (modulo 256) of its last write, in one byte; 504 bits for the texts of that slice; an unused byte; 504 bits for the
-- texts of the slice before.

local BLOCK, BITS, HEAD = 128, 504, 4
-- A new F has one block for every 32 keys of the server. It is made anew when there are more than four times as many
-- keys. If texts begin in many different ways, it then says yes to a few percent of absent texts. F has 8 KB to 8 MB.
local KEYS_A_BLOCK, FEWEST, MOST = 32, 64, 65536
local PRIME = 4294967291 -- below 2^32, so that 263 times a hash is exact in a double
local DAY = 86400000
local MASK = {[0] = 1, 2, 4, 8, 16, 32, 64, 128}

-- The positions at which the characters of a UTF-8 text begin, and the position after the last one.
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

-- The hash of a text, continued from the hash of its beginning.
local function hashed(hash, bytes, from, to)
  for at = from, to do hash = (hash * 263 + bytes[at]) % PRIME end
  return hash
end

-- F's three numbers, and its number of blocks; nil if F is absent, or cachekeeper did not write it.
local function filter_of(key)
  local head, size = redis.pcall('GETRANGE', key, 0, 59), redis.pcall('STRLEN', key)
  if type(head) ~= 'string' or size <= BLOCK or size % BLOCK > 0 then return nil end
  local from, life, newest = tonumber(head:sub(1, 20)), tonumber(head:sub(21, 40)), tonumber(head:sub(41, 60))
  if not (from and life and newest) then return nil end
  return {from = from, life = life, newest = newest, blocks = size / BLOCK - 1}
end

-- Whether the clock was set back so far that slices cannot be told apart any more. A text that is
-- registered now would get a slice that counts as long past beside the slices of earlier texts.
local function set_back(filter, now)
  return now < filter.newest - filter.life
end

-- The block for the hash of a head, and its position in F.
local function block_of(key, blocks, hash)
  local at = BLOCK * (1 + hash % blocks)
  return redis.call('GETRANGE', key, at, at + BLOCK - 1), at
end

local function slice_of(now, life)
  return math.floor(now / life) % 256
end

-- The positions, in a block, of the bits of this slice and of the slice before; nil for bits that are over. A block may
-- be from the next slice: the server's clock was set back since its last write, by one life at most (see `set_back`).
-- Its texts still count. A block that seems to be from further ahead has not been written for a long time.
local function halves_of(block, slice)
  local age = (slice - block:byte(1)) % 256
  if age == 0 or age == 255 then return 2, 66 end
  if age == 1 then return nil, 2 end
  return nil, nil
end

-- Make an F as large as the server needs. It replaces one that is too small, has a shorter `life`, or is from before
-- the clock was set back. One `life` after the last registration in the old F, all its texts have ended, unless
-- the clock is set back.
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
  -- A block that was never written is all zeros. It has no slice, though its first byte looks like slice 0. If slice 0
  -- were taken for a future slice, a text written to it would be kept until that slice comes round again.
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
