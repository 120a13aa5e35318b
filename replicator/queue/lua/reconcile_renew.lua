-- Prolong a reconcile, and say how far it is. ARGV: prefix, token, record (JSON), lease in ms.
-- Returns 0 when it is not the token's any more.
local holder = redis.call('GET', RECONCILE_LEASE)
if not holder then return 0 end
local held, record = cjson.decode(holder), cjson.decode(ARGV[3])
if held.token ~= ARGV[2] then return 0 end
record.token, record.since = held.token, held.since
allow_writes()
redis.call('SET', RECONCILE_LEASE, cjson.encode(record), 'PX', ARGV[4])
return 1
