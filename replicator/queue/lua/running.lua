-- ARGV: prefix. Returns id, running record, ... of what runs under a live lease.
local live, records = {}, redis.call('HGETALL', RUNNING)
for i = 1, #records, 2 do
  if redis.call('EXISTS', lease(records[i])) == 1 then
    live[#live + 1] = records[i]
    live[#live + 1] = records[i + 1]
  end
end
return live
