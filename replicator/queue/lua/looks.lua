-- Looks at the queue, and the history of what ended lately.

-- chronicle --
-- What ended lately, for a person to look at. Put in front of the scripts that note it. All of it is
-- bounded, and nothing of it fails what it is noted for: pcall.
--
--   <prefix>:history:<lane>       list of "<ms> <JSON>", one for each job that ended, the newest first
--   <prefix>:history:reconciles   list of results as in <prefix>:reconcile, the newest first
--   <prefix>:lag                  hash quarter of an hour since 1970 -> "<number> <sum> <longest>", in ms
local HISTORY_JOBS, HISTORY_RECONCILES = 1000, 30
local LAG_SPAN, LAG_SPANS = 900000, 192
local LAG = prefix .. ':lag'

local function history(name) return prefix .. ':history:' .. name end

local function note_first(key, text, most)
  redis.pcall('LPUSH', key, text)
  redis.pcall('LTRIM', key, 0, most - 1)
end

local function note_lag(lag)
  local span = math.floor(NOW / LAG_SPAN)
  local known = redis.pcall('HGET', LAG, span)
  if type(known) == 'table' then return end
  local number, sum, longest = string.match(known or '', '^(%d+) (%d+) (%d+)$')
  number, sum, longest = tonumber(number or 0) + 1, tonumber(sum or 0) + lag, math.max(tonumber(longest or 0), lag)
  redis.pcall('HSET', LAG, span, string.format('%.0f %.0f %.0f', number, sum, longest))
  if known then return end
  for _, other in ipairs(redis.call('HKEYS', LAG)) do
    -- What lies in the future was noted before the clock was set back.
    if tonumber(other) <= span - LAG_SPANS or tonumber(other) > span then redis.call('HDEL', LAG, other) end
  end
end

-- Note a job that ended. entry: JSON, or '' or nil for one that nobody wants to see; lag: in ms, or '' or nil without one.
local function note_ended(lane, entry, lag)
  if (entry or '') ~= '' then note_first(history(lane), string.format('%.0f ', NOW) .. entry, HISTORY_JOBS) end
  if (lag or '') ~= '' then note_lag(tonumber(lag)) end
end

-- counts --
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

-- oldest --
-- ARGV: prefix. Returns for each lane for how many ms its oldest entry has been due and not begun; 0 without one.
local ages = {}
for _, lane in ipairs(LANES) do
  -- What runs stands behind what is due, at the end of its lease.
  local first = redis.call('ZRANGE', queue(lane), 0, 0, 'WITHSCORES')
  ages[#ages + 1] = first[2] and math.max(0, NOW - tonumber(first[2])) or 0
end
return ages

-- running --
-- ARGV: prefix. Returns id, running record, ... of what runs under a live lease.
local live, records = {}, redis.call('HGETALL', RUNNING)
for i = 1, #records, 2 do
  if redis.call('EXISTS', lease(records[i])) == 1 then
    live[#live + 1] = records[i]
    live[#live + 1] = records[i + 1]
  end
end
return live

-- waiting --
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

-- history with chronicle --
-- ARGV: prefix. Returns: now, what ended in the lanes (a list each), what is known of lags (a hash), reconciles (a list).
return {
  NOW, redis.call('LRANGE', history('events'), 0, -1), redis.call('LRANGE', history('backfill'), 0, -1),
  redis.call('HGETALL', LAG), redis.call('LRANGE', history('reconciles'), 0, -1),
}

-- ping --
-- Write something small: refused, like an enqueue, when memory is full, the disk fails or this is a replica.
redis.call('SET', prefix .. ':ping', NOW, 'PX', 60000)
return 1
