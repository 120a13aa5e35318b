-- Give the turn back, and complain no more. ARGV: prefix, token.
if redis.call('GET', NOTICES_LEASE) == ARGV[2] then redis.call('DEL', NOTICES_LEASE) end
return redis.call('HDEL', COMPLAINTS, ARGV[2])
