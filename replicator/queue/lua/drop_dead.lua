-- Forget dead letters. ARGV: prefix, then ids. Returns the ids that were forgotten.
local dropped = {}
for i = 2, #ARGV do
  if redis.call('HDEL', DEAD, ARGV[i]) == 1 then dropped[#dropped + 1] = ARGV[i] end
  redis.call('HDEL', DEAD_JOBS, ARGV[i])
  redis.call('ZREM', BURIED, ARGV[i])
end
return dropped
