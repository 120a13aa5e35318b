-- Complain, and take the turn to tell people, or keep it. ARGV: prefix, token, lease in ms, host, complaint or ''.
-- Returns: whether the turn is the token's, now, what was told (JSON) or '', then the complaints of all processes (JSON).
if ARGV[5] == '' then
  redis.call('HDEL', COMPLAINTS, ARGV[2])
else
  local known = redis.call('HGET', COMPLAINTS, ARGV[2])
  local before = known and cjson.decode(known)
  local since = before and before.text == ARGV[5] and before.since or NOW
  local complaint = {host = ARGV[4], text = ARGV[5], since = since, ['until'] = NOW + ARGV[3]}
  redis.call('HSET', COMPLAINTS, ARGV[2], cjson.encode(complaint))
end
local holder = redis.call('GET', NOTICES_LEASE)
if holder and holder ~= ARGV[2] then return {0} end
redis.call('SET', NOTICES_LEASE, ARGV[2], 'PX', ARGV[3])
local complaints = {}
local all = redis.call('HGETALL', COMPLAINTS)
for i = 1, #all, 2 do
  if cjson.decode(all[i + 1])['until'] < NOW then
    redis.call('HDEL', COMPLAINTS, all[i])
  else
    complaints[#complaints + 1] = all[i + 1]
  end
end
return {1, NOW, redis.call('GET', NOTICES) or '', unpack(complaints)}
