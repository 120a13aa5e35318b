-- What one process of all does: the reconcile, and notices to people.

-- reconcile_begin --
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

-- reconcile_renew --
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

-- reconcile_end with chronicle --
-- End a reconcile. ARGV: prefix, token, when it began, result (JSON), or '' when it did not come to its end.
-- Returns the result with its times, or '' when there is none or it is not the token's any more.
local holder = redis.call('GET', RECONCILE_LEASE)
if not holder or cjson.decode(holder).token ~= ARGV[2] then
  -- Asked again, as the first answer was not heard.
  return redis.call('HGET', RECONCILE, 'started') == ARGV[3] and redis.call('HGET', RECONCILE, 'result') or ''
end
redis.call('DEL', RECONCILE_LEASE)
if ARGV[4] == '' then return '' end
local result = cjson.decode(ARGV[4])
result.started, result.ended = tonumber(ARGV[3]), NOW
local text = cjson.encode(result)
redis.call('HSET', RECONCILE, 'started', ARGV[3], 'result', text)
if result.error == cjson.null then redis.call('HSET', RECONCILE, 'succeeded', string.format('%.0f', NOW)) end
note_first(history('reconciles'), text, HISTORY_RECONCILES)
return text

-- reconcile_show --
-- ARGV: prefix. Returns: now, when the last reconcile that ended began or '', its result or '', who runs one or '',
-- when the last one ended that came to its end or ''.
local last = redis.call('HMGET', RECONCILE, 'started', 'result', 'succeeded')
return {NOW, last[1] or '', last[2] or '', redis.call('GET', RECONCILE_LEASE) or '', last[3] or ''}

-- notices_begin --
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

-- notices_keep --
-- Keep what was told. ARGV: prefix, token, what was told (JSON). Returns whether the turn still is the token's; if it is
-- not, nothing is kept.
if redis.call('GET', NOTICES_LEASE) ~= ARGV[2] then return 0 end
redis.call('SET', NOTICES, ARGV[3])
return 1

-- notices_end --
-- Give the turn back, and complain no more. ARGV: prefix, token.
if redis.call('GET', NOTICES_LEASE) == ARGV[2] then redis.call('DEL', NOTICES_LEASE) end
return redis.call('HDEL', COMPLAINTS, ARGV[2])
