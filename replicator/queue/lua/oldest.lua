-- ARGV: prefix. Returns for each lane for how many ms its oldest entry has been due and not begun; 0 without one.
local ages = {}
for _, lane in ipairs(LANES) do
  -- What runs stands behind what is due, at the end of its lease.
  local first = redis.call('ZRANGE', queue(lane), 0, 0, 'WITHSCORES')
  ages[#ages + 1] = first[2] and math.max(0, NOW - tonumber(first[2])) or 0
end
return ages
