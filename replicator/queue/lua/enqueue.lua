-- ARGV: prefix, lane, run or '', then for each job: id, arq's job, retries or '', '1' when it stands for several,
-- when it was pushed in ms, or ''.
-- Returns how many of them were not pending before.
local woken, added = {}, 0
for i = 4, #ARGV, 5 do
  local target, pending = enqueue(ARGV[i], ARGV[i + 1], ARGV[2], ARGV[i + 2], ARGV[3], ARGV[i + 4])
  woken[target] = true
  if not pending then added = added + 1 end
  if ARGV[i + 3] == '1' then redis.call('SADD', MERGED, ARGV[i]) end
end
for lane in pairs(woken) do wake(lane) end
return added
