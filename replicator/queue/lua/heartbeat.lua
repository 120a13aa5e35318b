-- A worker's sign of life. ARGV: prefix, worker, its record (JSON) or '' when it has ended, most ms between two signs.
local workers = prefix .. ':workers'
allow_writes()
if ARGV[3] == '' then return redis.call('HDEL', workers, ARGV[2]) end
local record = cjson.decode(ARGV[3])
record.seen = NOW
redis.call('HSET', workers, ARGV[2], cjson.encode(record))
local all = redis.call('HGETALL', workers)
for i = 1, #all, 2 do
  if cjson.decode(all[i + 1]).seen < NOW - tonumber(ARGV[4]) then redis.call('HDEL', workers, all[i]) end
end
return 1
