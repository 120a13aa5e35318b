-- ARGV: prefix, lane, run or '', then for each job: id, arq's job, retries or ''.
local woken = {}
for i = 4, #ARGV, 3 do
  woken[enqueue(ARGV[i], ARGV[i + 1], ARGV[2], ARGV[i + 2], ARGV[3])] = true
end
for lane in pairs(woken) do wake(lane) end
return #ARGV
