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
