-- Every key whose text occurs in one of the names goes, and the metadata beside it, cached or not, filled or in flight.
-- Blind to how many are cached; no state; the cost is the number of substrings. Not for Redis Cluster: the keys are of many slots.
-- KEYS: none.  ARGV: prefix, suffix, most characters of a text, how many of the first name's characters begin one, name, …
--   (pairs of the last two). Returns {'invalidated', number of distinct keys}
local prefix, suffix, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
local seen, batch, count = {}, {}, 0
local escapes = {['{'] = '%7B', ['}'] = '%7D'}

-- The escape of fold/keytext: braces, and such % as would be read back as one.
local function escaped(text)
  text = text:gsub('%%([27][5BD])', function(code)
    if code == '25' or code == '7B' or code == '7D' then return '%25' .. code end
  end)
  return (text:gsub('[{}]', escapes))
end

-- Nearly every batch holds nothing that is cached. EXISTS says so with fewer looks into the keyspace than UNLINK takes, and in a
-- large one each look is a cache miss.
local function unlink()
  if #batch > 0 and redis.call('EXISTS', unpack(batch)) > 0 then redis.call('UNLINK', unpack(batch)) end
  batch = {}
end

for argument = 4, #ARGV, 2 do
  local starts, name = tonumber(ARGV[argument]), ARGV[argument + 1]
  local special = name:find('[{}%%]')
  local edges, at = {}, 1
  while at <= #name do  -- byte offsets of the characters, in UTF-8
    edges[#edges + 1] = at
    local lead = name:byte(at)
    at = at + (lead < 0x80 and 1 or lead < 0xE0 and 2 or lead < 0xF0 and 3 or 4)
  end
  local total = #edges
  edges[total + 1] = #name + 1
  for first = 1, math.min(starts, total) do
    for last = first, math.min(first + limit - 1, total) do
      local text = name:sub(edges[first], edges[last + 1] - 1)
      if not seen[text] then
        seen[text] = true
        count = count + 1
        local key = prefix .. (special and escaped(text) or text) .. suffix
        batch[#batch + 1] = key
        batch[#batch + 1] = '{' .. key .. '}:meta'
        if #batch >= 128 then unlink() end
      end
    end
  end
end
unlink()
return {'invalidated', count}
