-- Prolong a turn. ARGV: prefix, item, token, lease in ms. Returns 0 when it is not the token's any more.
if redis.call('GET', turn_key(ARGV[2])) ~= ARGV[3] then return 0 end
return redis.call('PEXPIRE', turn_key(ARGV[2]), ARGV[4])
