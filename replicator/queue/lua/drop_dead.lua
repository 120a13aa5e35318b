-- Forget dead letters. ARGV: prefix, then ids. Returns how many there were.
local dropped = 0
for i = 2, #ARGV do
  dropped = dropped + redis.call('HDEL', DEAD, ARGV[i])
  redis.call('HDEL', DEAD_JOBS, ARGV[i])
end
return dropped
