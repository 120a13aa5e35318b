-- The signs of life of workers and other processes.

-- heartbeat --
-- Show a sign of life. ARGV: prefix, kind ('workers' or 'processes'), its name, its record (JSON) or '' when it has
-- stopped, most ms between two signs. Returns by how many ms Redis's clock was set back, to one process once; or 0.
local known, name = prefix .. ':' .. ARGV[2], ARGV[3]
allow_writes()
if ARGV[4] == '' then return redis.call('HDEL', known, name) end
local record = cjson.decode(ARGV[4])
record.seen = NOW
redis.call('HSET', known, name, cjson.encode(record))
-- A process that was killed can't withdraw its record; the living do it.
local all = redis.call('HGETALL', known)
for i = 1, #all, 2 do
  -- One in the future is a sign from before the clock was set back.
  if math.abs(NOW - cjson.decode(all[i + 1]).seen) > tonumber(ARGV[5]) then redis.call('HDEL', known, all[i]) end
end
local set_back = redis.call('HGET', CLOCK, 'untold')
if set_back then redis.call('HDEL', CLOCK, 'untold') end
return tonumber(set_back or 0)

-- alive --
-- ARGV: prefix, kind ('workers' or 'processes'), most ms since a sign of life. Returns the records of the living.
local alive = {}
for _, record in ipairs(redis.call('HVALS', prefix .. ':' .. ARGV[2])) do
  if math.abs(NOW - cjson.decode(record).seen) <= tonumber(ARGV[3]) then alive[#alive + 1] = record end
end
return alive

-- shares --
-- Report the demand of this process, and get its share of each limit that all processes have in common.
--
-- A process may not take what another still holds, so that all shares together never exceed the limit: one that is to
-- give something up does so when it asks next, half a second later, and only then does the other get it.
--
--   <prefix>:shares            hash "process name" -> JSON: name, process, events, bulk (bodies that wait), used_events,
--                              used_bulk (fractions of the limit), share, and until when that counts
-- ARGV: prefix, process, ms for which a share counts, then for each limit: its name, events, bulk, used_events,
-- used_bulk, or '' for each of the four when nothing is sent any more.
-- Returns for each limit: the share in millionths, and how many processes take part.
local SHARES, process, valid = prefix .. ':shares', ARGV[2], tonumber(ARGV[3])
local EVENTS_FIRST, HEADROOM, LEAST = 0.8, 0.01, 0.05
allow_writes()

local others = {}
local all = redis.call('HGETALL', SHARES)
for i = 1, #all, 2 do
  local record = cjson.decode(all[i + 1])
  -- One far ahead was written before the clock was set back.
  if record['until'] < NOW or record['until'] > NOW + 2 * valid then
    redis.call('HDEL', SHARES, all[i])
  elseif record.process ~= process then
    others[record.name] = others[record.name] or {}
    table.insert(others[record.name], record)
  end
end

-- Divide a part of the limit by need: processes that wait divide the rest by the number of their bodies.
local function divide(total, records, waiting, used)
  local parts, open, weights = {}, {}, 0
  for i, record in ipairs(records) do
    parts[i] = 0
    local weight = record[waiting] > 0 and math.max(record[waiting], 1) or 1
    local need = record[waiting] > 0 and math.huge or record[used] > 0 and record[used] * 1.05 + HEADROOM or 0
    if need > 0 then
      open[#open + 1] = {i = i, weight = weight, need = need}
      weights = weights + weight
    end
  end
  local settled = false
  while #open > 0 and not settled do
    settled = true
    local each, left = total / weights, {}
    for _, one in ipairs(open) do
      if one.need < one.weight * each then
        parts[one.i] = one.need
        total, weights, settled = total - one.need, weights - one.weight, false
      else
        left[#left + 1] = one
      end
    end
    open = left
  end
  for _, one in ipairs(open) do parts[one.i] = total * one.weight / weights end
  local sum = 0
  for _, part in ipairs(parts) do sum = sum + part end
  return parts, sum
end

local function wanted(records)
  local _, bulk_demand = divide(1, records, 'bulk', 'used_bulk')
  local events, events_sum = divide(bulk_demand > 0 and EVENTS_FIRST or 1, records, 'events', 'used_events')
  local bulk, bulk_sum = divide(1 - events_sum, records, 'bulk', 'used_bulk')
  events, events_sum = divide(1 - bulk_sum, records, 'events', 'used_events')
  -- The part that nobody needs, so that anyone can begin.
  return events[1] + bulk[1] + math.max(0, 1 - events_sum - bulk_sum) / #records
end

local reply = {}
for i = 4, #ARGV, 5 do
  local name = ARGV[i]
  local records = others[name] or {}
  if ARGV[i + 1] == '' then
    redis.call('HDEL', SHARES, process .. ' ' .. name)
    reply[#reply + 1], reply[#reply + 2] = 0, #records
  else
    local mine = {name = name, process = process, ['until'] = NOW + valid}
    for place, key in ipairs({'events', 'bulk', 'used_events', 'used_bulk'}) do
      mine[key] = tonumber(ARGV[i + place])
    end
    local held = 0
    for _, record in ipairs(records) do held = held + record.share end
    table.insert(records, 1, mine)
    -- A small share at once, even if other processes hold the rest: a small push need not wait until they give way.
    mine.share = math.max(math.min(wanted(records), 1 - held), math.min(LEAST, 1 / #records))
    redis.call('HSET', SHARES, process .. ' ' .. name, cjson.encode(mine))
    reply[#reply + 1], reply[#reply + 2] = math.floor(mine.share * 1000000), #records
  end
end
return reply
