-- Forget that an item is at a place. ARGV: prefix, item, place.
local item = ARGV[2]
local others, noted = places(item, ARGV[3])
if not noted then return 0 end
for _, generation in ipairs({KNOWN.new, KNOWN.old}) do
  if redis.call('HEXISTS', generation, item) == 1 then
    if #others == 0 then
      redis.call('HDEL', generation, item)
    else
      redis.call('HSET', generation, item, lines(others))
    end
  end
end
return 1
