-- Begin a reconcile, if nobody runs one, and none has ended since the caller looked.
-- ARGV: prefix, token, record (JSON), lease in ms, when the last one that ended began as the caller knows it, or ''.
-- Returns when it began, or 0 when it may not. Asked again with the same token it gives the same answer.
if (redis.call('HGET', RECONCILE, 'started') or '') ~= ARGV[5] then return 0 end
local holder = redis.call('GET', RECONCILE_LEASE)
if holder then
  local held = cjson.decode(holder)
  return held.token == ARGV[2] and held.since or 0
end
local record = cjson.decode(ARGV[3])
record.token, record.since = ARGV[2], NOW
redis.call('SET', RECONCILE_LEASE, cjson.encode(record), 'PX', ARGV[4])
return NOW
