-- Delete every key whose text occurs in one of the names, and the metadata beside it, whether filled or in flight.
-- The cost depends on the number of substrings, not on how many of them are cached. For each substring, F (see
-- texts.lua) says whether its key may be there. If F is missing or not trusted yet, the keys of all substrings are
-- deleted. Not for Redis Cluster: the keys lie in many slots.
-- KEYS: F.  ARGV: prefix, suffix, most characters of a text, then for each name: how many of its characters begin a
--   substring, and the name.  Returns {'invalidated'}
local prefix, suffix, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
local seen, batch = {}, {}
local escapes = {['{'] = '%7B', ['}'] = '%7D'}
local byte, floor = string.byte, math.floor

-- The escape of fold/brace_escapes: escapes braces, and each % that would otherwise be read back as an escape.
local function escaped(text)
  text = text:gsub('%%([27][5BD])', function(code)
    if code == '25' or code == '7B' or code == '7D' then return '%25' .. code end
  end)
  return (text:gsub('[{}]', escapes))
end

local function unlink()
  if #batch > 0 then redis.call('UNLINK', unpack(batch)) end
  batch = {}
end

-- Whether a text with that hash is in one half of the current block.
local block, mine, before = '', nil, nil
local function has(half, hash)
  if not half then return false end
  local place = hash % BITS
  local mask = MASK[place % 8]
  if byte(block, half + floor(place / 8)) % (2 * mask) < mask then return false end
  place = floor(hash / BITS) % BITS
  mask = MASK[place % 8]
  return byte(block, half + floor(place / 8)) % (2 * mask) >= mask
end

local function invalidate(text)
  if seen[text] then return end
  seen[text] = true
  local key = prefix .. escaped(text) .. suffix
  batch[#batch + 1] = key
  batch[#batch + 1] = '{' .. key .. '}:meta'
  if #batch >= 128 then unlink() end
end

local now = clock()
local filter = filter_of(KEYS[1])
local believed = filter and now >= filter.from and not set_back(filter, now)
local slice = believed and slice_of(now, filter.life)

for argument = 4, #ARGV, 2 do
  local starts, name = tonumber(ARGV[argument]), ARGV[argument + 1]
  local edges, bytes = edges_of(name), {name:byte(1, -1)}
  local total = #edges - 1
  for first = 1, math.min(starts, total) do
    local hash = 0
    for last = first, math.min(first + limit - 1, total) do
      local maybe = true
      if believed then
        hash = hashed(hash, bytes, edges[last], edges[last + 1] - 1)
        if last - first < HEAD then
          block = block_of(KEYS[1], filter.blocks, hash)
          mine, before = halves_of(block, slice)
        end
        maybe = has(mine, hash) or has(before, hash)
      end
      if maybe then invalidate(name:sub(edges[first], edges[last + 1] - 1)) end
    end
  end
end
unlink()
return {'invalidated'}
