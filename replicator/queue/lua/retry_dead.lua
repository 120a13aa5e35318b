-- Queue dead letters anew. ARGV: prefix, then ids. Returns the ids that were queued.
local queued = {}
for i = 2, #ARGV do
  local letter, job = redis.call('HGET', DEAD, ARGV[i]), redis.call('HGET', DEAD_JOBS, ARGV[i])
  if letter and job and job ~= '' then
    wake(enqueue(ARGV[i], job, cjson.decode(letter).lane, '', '', ''))
    queued[#queued + 1] = ARGV[i]
  end
end
return queued
