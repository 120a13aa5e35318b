-- ARGV: prefix. Returns: now, when the last reconcile that ended began or '', its result or '', who runs one or ''.
local last = redis.call('HMGET', RECONCILE, 'started', 'result')
return {NOW, last[1] or '', last[2] or '', redis.call('GET', RECONCILE_LEASE) or ''}
