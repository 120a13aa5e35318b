-- ARGV: prefix. Returns: now, what ended in the lanes (a list each), what is known of lags (a hash), reconciles (a list).
return {
  NOW, redis.call('LRANGE', history('events'), 0, -1), redis.call('LRANGE', history('backfill'), 0, -1),
  redis.call('HGETALL', LAG), redis.call('LRANGE', history('reconciles'), 0, -1),
}
