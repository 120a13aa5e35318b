-- The signs of life of workers and other processes.

-- configured --
-- The configurations that processes have in force, by their digest. A process of an older version does not name its own:
-- its digest is ''. Put in front of the scripts that know of them.
--
--   <prefix>:configs   hash digest -> JSON: parts, digests of its parts with a space between them; seen, when a process
--                      had it in force last; stays: one of these runs for years; first, last: what :turns was when it
--                      was seen first and last
--   <prefix>:turns     counts how often a process began with a configuration: it orders them independent of clocks
local CONFIGS, TURNS, MOST_CONFIGS = prefix .. ':configs', prefix .. ':turns', 64

-- Forget the configurations that were seen longest ago, until there is room for one more.
local function forget_configs()
  while redis.call('HLEN', CONFIGS) >= MOST_CONFIGS do
    local oldest, seen = nil, math.huge
    local all = redis.call('HGETALL', CONFIGS)
    for i = 1, #all, 2 do
      local at = cjson.decode(all[i + 1]).seen
      if at < seen then oldest, seen = all[i], at end
    end
    redis.call('HDEL', CONFIGS, oldest)
  end
end

-- Note that a configuration is in force. Returns what is noted of it.
local function note_config(digest, parts, stays)
  local text, turns = redis.call('HGET', CONFIGS, digest), tonumber(redis.call('GET', TURNS) or 0)
  if not text then forget_configs() end
  local known = text and cjson.decode(text) or {first = turns}
  known.last, known.seen, known.parts, known.stays = turns, NOW, parts or known.parts or '', known.stays or stays
  redis.call('HSET', CONFIGS, digest, cjson.encode(known))
  return known
end

local function share_a_part(one, other)
  local parts = {}
  for part in string.gmatch(one, '%S+') do parts[part] = true end
  for part in string.gmatch(other, '%S+') do
    if parts[part] then return true end
  end
  return false
end

-- heartbeat with configured --
-- Show a sign of life. ARGV: prefix, kind ('workers' or 'processes'), its name, its record (JSON) or '' when it has
-- stopped, most ms between two signs; and of a process with a configuration: its digest, its parts, and its turn or '' if
-- it has just come into force.
-- Returns by how many ms Redis's clock was set back, to one process once; or 0. With a configuration it is the first of
-- a list; then: its turn, then for each other one that is in force: digest, '1' if they have a part in common.
local known, name, digest, turn = prefix .. ':' .. ARGV[2], ARGV[3], ARGV[6], ARGV[8]
allow_writes()
if ARGV[4] == '' then return redis.call('HDEL', known, name) end
local record = cjson.decode(ARGV[4])
record.seen = NOW
if digest then
  local before = redis.call('HGET', known, name)
  before = before and cjson.decode(before)
  record.rules_since = before and before.rules == digest and before.rules_since or NOW
  -- Or if this is another Redis, or one that was put back to an older state.
  if turn == '' or tonumber(turn) > tonumber(redis.call('GET', TURNS) or 0) then turn = redis.call('INCR', TURNS) end
  note_config(digest, ARGV[7], record.command ~= 'backfill')
end
redis.call('HSET', known, name, cjson.encode(record))
-- A process that was killed can't withdraw its record; the living do it.
local all, others = redis.call('HGETALL', known), {}
for i = 1, #all, 2 do
  local other = cjson.decode(all[i + 1])
  -- One in the future is a sign from before the clock was set back.
  if math.abs(NOW - other.seen) > tonumber(ARGV[5]) then
    redis.call('HDEL', known, all[i])
  elseif other.command ~= 'backfill' then
    others[other.rules or ''] = true
  end
end
local set_back = redis.call('HGET', CLOCK, 'untold')
if set_back then redis.call('HDEL', CLOCK, 'untold') end
set_back = tonumber(set_back or 0)
if not digest then return set_back end
local reply = {set_back, tonumber(turn)}
-- An older version does not note its own.
if others[''] then note_config('', '', true) end
for other in pairs(others) do
  if other ~= '' and other ~= digest then
    local parts = cjson.decode(redis.call('HGET', CONFIGS, other) or '{}').parts or ''
    reply[#reply + 1] = other
    reply[#reply + 1] = share_a_part(ARGV[7], parts) and '1' or '0'
  end
end
return reply

-- configs with configured --
-- ARGV: prefix, most ms between two signs of life; and, if there is one, a digest to note if it is not known.
-- Returns for each configuration: digest, turns of the first and the last sign of it, ms since the last, '1' if a process
-- with it runs for years, parts, the commands of those that have it in force now with a space between them, how many
-- jobs are left to them.
if ARGV[3] and redis.call('HEXISTS', CONFIGS, ARGV[3]) == 0 then
  allow_writes()
  note_config(ARGV[3])
end
local live = {}
for _, text in ipairs(redis.call('HVALS', prefix .. ':processes')) do
  local process = cjson.decode(text)
  if math.abs(NOW - process.seen) <= tonumber(ARGV[2]) then
    local theirs = process.rules or ''
    live[theirs] = (live[theirs] and live[theirs] .. ' ' or '') .. (process.command or 'serve')
  end
end
local found, all = {}, redis.call('HGETALL', CONFIGS)
for i = 1, #all, 2 do
  local known, waiting = cjson.decode(all[i + 1]), 0
  for _, lane in ipairs(LANES) do waiting = waiting + redis.call('ZCARD', foreign(lane, all[i])) end
  found[#found + 1] = {
    all[i], known.first, known.last, math.max(0, NOW - known.seen), known.stays and '1' or '', known.parts,
    live[all[i]] or '', waiting,
  }
end
return found

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
  -- The unneeded part, so that any process can begin.
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
