-- ARGV: prefix. Returns: now, when the last reconcile that ended began or '', its result or '', who runs one or '',
-- when the last one ended that came to its end or ''.
local last = redis.call('HMGET', RECONCILE, 'started', 'result', 'succeeded')
return {NOW, last[1] or '', last[2] or '', redis.call('GET', RECONCILE_LEASE) or '', last[3] or ''}
