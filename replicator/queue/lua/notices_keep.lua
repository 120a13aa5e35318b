-- Keep what was told. ARGV: prefix, token, what was told (JSON). Returns whether the turn still is the token's; if it is
-- not, nothing is kept.
if redis.call('GET', NOTICES_LEASE) ~= ARGV[2] then return 0 end
redis.call('SET', NOTICES, ARGV[3])
return 1
