-- ARGV: prefix, then ids. Returns id, last failure, lane, due in ms, ... of those that wait for a retry and do not run.
local found = {}
for i = 2, #ARGV do
  local id = ARGV[i]
  local record, lane = redis.call('HGET', WAITING, id), lane_of(id)
  if record and lane and redis.call('EXISTS', lease(id)) == 0 then
    for _, part in ipairs({id, record, lane, redis.call('ZSCORE', queue(lane), member(id))}) do
      found[#found + 1] = part
    end
  end
end
return found
