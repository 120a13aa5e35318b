-- ARGV: prefix. Returns for each lane: queued, running, waiting for a retry; then the number of dead letters.
local running, leased = {events = 0, backfill = 0}, {events = 0, backfill = 0}
local records = redis.call('HGETALL', RUNNING)
for i = 1, #records, 2 do
  if redis.call('EXISTS', lease(records[i])) == 1 then
    local lane = cjson.decode(records[i + 1]).lane
    running[lane] = running[lane] + 1
    local stands = lane_of(records[i])
    if stands then leased[stands] = leased[stands] + 1 end
  end
end
local counts = {}
for _, lane in ipairs(LANES) do
  local later = redis.call('ZCOUNT', queue(lane), '(' .. NOW, '+inf')
  counts[#counts + 1] = redis.call('ZCOUNT', queue(lane), '-inf', NOW)
  counts[#counts + 1] = running[lane]
  counts[#counts + 1] = math.max(0, later - leased[lane])
end
counts[#counts + 1] = redis.call('HLEN', DEAD)
return counts
