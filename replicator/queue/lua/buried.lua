-- Tell of the dead letters that are newer than a mark. ARGV: prefix, mark (0 for all), how many of them.
-- Returns: how many dead letters there are, how many of them are newer, the mark of the newest, then records (JSON) of
-- the first newer ones.
local newer = redis.call('ZRANGEBYSCORE', BURIED, '(' .. ARGV[2], '+inf', 'LIMIT', 0, ARGV[3])
local records = {}
for _, id in ipairs(newer) do
  local record = redis.call('HGET', DEAD, id)
  -- An older version of this program takes a letter away and leaves its mark.
  if record then records[#records + 1] = record else redis.call('ZREM', BURIED, id) end
end
local last = redis.call('ZRANGE', BURIED, -1, -1, 'WITHSCORES')
local mark = math.max(tonumber(ARGV[2]), tonumber(last[2] or 0))
return {redis.call('HLEN', DEAD), redis.call('ZCOUNT', BURIED, '(' .. ARGV[2], '+inf'), mark, unpack(records)}
