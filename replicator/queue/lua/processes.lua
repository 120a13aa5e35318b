-- The signs of life of workers and other processes.

-- heartbeat --
-- Show a sign of life. ARGV: prefix, kind ('workers' or 'processes'), its name, its record (JSON) or '' when it has
-- stopped, most ms between two signs.
local known, name = prefix .. ':' .. ARGV[2], ARGV[3]
allow_writes()
if ARGV[4] == '' then return redis.call('HDEL', known, name) end
local record = cjson.decode(ARGV[4])
record.seen = NOW
redis.call('HSET', known, name, cjson.encode(record))
-- A process that was killed can't withdraw its record; the living do it.
local all = redis.call('HGETALL', known)
for i = 1, #all, 2 do
  if cjson.decode(all[i + 1]).seen < NOW - tonumber(ARGV[5]) then redis.call('HDEL', known, all[i]) end
end
return 1

-- alive --
-- ARGV: prefix, kind ('workers' or 'processes'), most ms since a sign of life. Returns the records of the living.
local alive = {}
for _, record in ipairs(redis.call('HVALS', prefix .. ':' .. ARGV[2])) do
  if cjson.decode(record).seen >= NOW - tonumber(ARGV[3]) then alive[#alive + 1] = record end
end
return alive
