-- Views of the queue, and the history of recent copies, reconciles and actions.

-- chronicle --
-- The recent history, for people to read. Put in front of the scripts that write it. All of it is bounded, and
-- pcall keeps a fault in it from failing the step that it describes.
--
--   <prefix>:history:<lane>       list of "<ms> <JSON>", one for each job that ended, the newest first
--   <prefix>:history:reconciles   list of results as in <prefix>:reconcile, the newest first
--   <prefix>:history:actions      list of "<ms> <JSON>", one for each action of a person, the newest first
--   <prefix>:history:attempts     list of JSON (a failure), one for each failed attempt with another to come, the newest first
--   <prefix>:history:unlogged     those of commands, until a process that runs for long has logged them
--   <prefix>:lag                  hash quarter of an hour since 1970 -> "<number> <sum> <longest>", in ms
--   <prefix>:rates                hash "<hour since 1970> <result>" -> how many jobs ended so
local HISTORY_JOBS, HISTORY_RECONCILES, HISTORY_ACTIONS = 1000, 30, 1000
local HISTORY_ATTEMPTS, ATTEMPT_BYTES = 1000, 4096
local HISTORIES = {'events', 'backfill', 'reconciles', 'actions'}
local LAG_SPAN, LAG_SPANS = 900000, 192
local RATE_SPAN, RATE_SPANS, MOST_RATES = 3600000, 48, 1000
local LAG, RATES = prefix .. ':lag', prefix .. ':rates'

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
    -- A span in the future was noted before the clock was set back.
    if tonumber(other) <= span - LAG_SPANS or tonumber(other) > span then redis.call('HDEL', LAG, other) end
  end
end

-- Note a failed attempt that is followed by another. failure: JSON.
local function note_attempt(failure)
  if #failure <= ATTEMPT_BYTES then note_first(history('attempts'), failure, HISTORY_ATTEMPTS) end
end

-- Count a job by its hour and its result. A quote within a text has a backslash in JSON, so the pattern finds the key.
local function count_result(entry)
  local span, result = math.floor(NOW / RATE_SPAN), string.match(entry, '"result":"([^"\\]+)"')
  if not result or redis.pcall('HINCRBY', RATES, string.format('%.0f ', span) .. result, 1) ~= 1 then return end
  for _, field in ipairs(redis.call('HKEYS', RATES)) do
    local hour = tonumber(string.match(field, '^%d+'))
    if not hour or hour <= span - RATE_SPANS or hour > span then redis.call('HDEL', RATES, field) end
  end
  if redis.call('HLEN', RATES) > MOST_RATES then redis.call('HDEL', RATES, string.format('%.0f ', span) .. result) end
end

-- Note a job that ended. entry: JSON, or '' or nil to keep none; lag: in ms, or '' or nil without one.
local function note_ended(lane, entry, lag)
  if (entry or '') ~= '' then
    note_first(history(lane), string.format('%.0f ', NOW) .. entry, HISTORY_JOBS)
    count_result(entry)
  end
  if (lag or '') ~= '' then note_lag(tonumber(lag)) end
end

-- counts with waits selection pauses --
-- ARGV: prefix. Returns for each lane: queued, running, waiting for a retry, parked for pauses; then the number of dead
-- letters.
local running, leased = {events = 0, backfill = 0}, {events = 0, backfill = 0}
local records = redis.call('HGETALL', RUNNING)
for i = 1, #records, 2 do
  if redis.call('EXISTS', lease(records[i])) == 1 then
    local lane = cjson.decode(records[i + 1]).lane
    running[lane] = running[lane] + 1
    -- An event may have moved the job into the other lane while it ran.
    local present = lane_of(records[i])
    if present then leased[present] = leased[present] + 1 end
  end
end
local counts, held = {}, count_parked()
for _, lane in ipairs(LANES) do
  -- Running jobs are in the queue too, at the end of their lease: only the rest waits for a retry.
  local later = redis.call('ZCOUNT', queue(lane), '(' .. NOW, '+inf')
  counts[#counts + 1] = redis.call('ZCOUNT', queue(lane), '-inf', NOW)
  counts[#counts + 1] = running[lane]
  counts[#counts + 1] = math.max(0, later - leased[lane] - held[lane])
  counts[#counts + 1] = held[lane]
end
counts[#counts + 1] = redis.call('HLEN', DEAD)
return counts

-- oldest --
-- ARGV: prefix. Returns for each lane for how many ms its oldest entry has been due and not begun; 0 without one.
local ages = {}
for _, lane in ipairs(LANES) do
  -- Running jobs are behind the due ones, at the end of their lease.
  local first = redis.call('ZRANGE', queue(lane), 0, 0, 'WITHSCORES')
  ages[#ages + 1] = first[2] and math.max(0, NOW - tonumber(first[2])) or 0
end
return ages

-- hosts with stops --
-- Tell how many jobs are pending for hosts of destinations, and how long the oldest enqueue waits that has not arrived;
-- of jobs that wait behind one with another source only that one counts. ARGV: prefix, then hosts.
-- Returns how many jobs are pending in each lane; then for each lane and host: how many jobs, and since when in ms ago.
local SIFTED = 20
local asked, records, reply = {}, redis.call('HGETALL', RUNNING), {}
for i = 1, #records, 2 do
  local id, record = records[i], cjson.decode(records[i + 1])
  local key = pending_key(lane_of(id) or record.lane, id)
  -- A cancelled job waits no longer.
  if stop_of(id, record.token) ~= 'cancel' then
    asked[key] = math.min(asked[key] or FAR, record.asked or record.pushed or record.since)
  end
end
for _, lane in ipairs(LANES) do reply[#reply + 1] = redis.call('ZCARD', queue(lane)) end
for _, lane in ipairs(LANES) do
  for i = 2, #ARGV do
    local key = pending_key(lane, ARGV[i])
    -- An older version of this program leaves the ids of the jobs that it has ended, begun or not.
    for _, from in ipairs({0, -SIFTED}) do
      local ids = redis.call('ZRANGE', key, from, from + SIFTED - 1)
      local known = #ids > 0 and redis.call('HMGET', GEN, unpack(ids)) or {}
      for n, id in ipairs(ids) do
        if not known[n] then redis.call('ZREM', key, id) end
      end
    end
    local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
    local since = math.min(asked[key] or FAR, tonumber(first[2]) or FAR)
    reply[#reply + 1] = redis.call('ZCARD', key)
    reply[#reply + 1] = since < FAR and math.max(0, NOW - since) or 0
  end
end
return reply

-- clock_show --
-- ARGV: prefix. Returns now, when Redis's clock was set back last, and by how many ms; nil for both if it never was.
return {NOW, unpack(redis.call('HMGET', CLOCK, 'back', 'by'))}

-- running --
-- ARGV: prefix. Returns id, running record, ... of the jobs with a live lease.
local live, records = {}, redis.call('HGETALL', RUNNING)
for i = 1, #records, 2 do
  if redis.call('EXISTS', lease(records[i])) == 1 then
    live[#live + 1] = records[i]
    live[#live + 1] = records[i + 1]
  end
end
return live

-- waiting --
-- ARGV: prefix, then ids. Returns id, last failure, lane, due in ms, ... of the jobs that wait for a retry.
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

-- destinations with waits selection pauses generations observed owned --
-- Return the known facts about destinations. ARGV: prefix, then for each: id, its short name, that of its repository.
-- Returns for each: the state of its pending job or '', its lane, when it is due in ms, its content or '', its last
-- failure (JSON) or '', its running record (JSON) or '', its dead letter (JSON) or '', its latest observation or '', and
-- what is remembered of its tag or ''.
local reply, _, selections, _, whole = {}, read_pauses()
for i = 2, #ARGV, 3 do
  local id = ARGV[i]
  local state, lane, due, content, record = '', '', 0, '', ''
  if redis.call('HEXISTS', GEN, id) == 1 then
    lane, content = lane_of(id) or 'events', redis.call('GET', job_key(id)) or ''
    due = tonumber(redis.call('ZSCORE', queue(lane), member(id)) or NOW)
    state = due > NOW and 'waiting' or 'queued'
    if redis.call('EXISTS', lease(id)) == 1 then
      state, record = 'running', redis.call('HGET', RUNNING, id) or ''
    elseif selected_by(selections, id, lane, content) or whole[lane] then
      state = 'paused'
    end
  end
  local time, doubted = latest(ARGV[i + 1]), latest(ARGV[i + 2]) or 0
  local observed = time and time > doubted and time <= NOW and OBSERVED.get(ARGV[i + 1]) or ''
  local failure = state ~= '' and redis.call('HGET', WAITING, id) or ''
  reply[#reply + 1] = {
    state, lane, string.format('%.0f', due), content, failure, record, redis.call('HGET', DEAD, id) or '', observed,
    get_owned(id) or '',
  }
end
return reply

-- pending --
-- ARGV: prefix, then id, text, text or '', .... Returns the ids that are pending with both texts in the content of their
-- job; one that waits for a retry or for a key does not need the second.
local found = {}
for i = 2, #ARGV, 3 do
  local id = ARGV[i]
  local content = redis.call('HEXISTS', GEN, id) == 1 and redis.call('GET', job_key(id))
  local waits = redis.call('HEXISTS', WAITING, id) == 1 and redis.call('EXISTS', lease(id)) == 0
  if content and string.find(content, ARGV[i + 1], 1, true) and (waits or string.find(content, ARGV[i + 2], 1, true)) then
    found[#found + 1] = id
  end
end
return found

-- history_page with chronicle --
-- ARGV: prefix, a time in ms or '', how many, lanes. Returns: the time before which the next page ended, or 0 at the end;
-- then what ended in the lanes before that time, as many and all of the same millisecond as the last one.
local before, most, found = tonumber(ARGV[2]) or math.huge, tonumber(ARGV[3]), {}
for i = 4, #ARGV do
  for _, entry in ipairs(redis.call('LRANGE', history(ARGV[i]), 0, -1)) do
    local time = tonumber(string.match(entry, '^%d+'))
    if time and time < before then found[#found + 1] = {time, entry} end
  end
end
table.sort(found, function(one, other) return one[1] > other[1] end)
local reply = {0}
for i, each in ipairs(found) do
  if i > most and each[1] < reply[1] then return reply end
  reply[1], reply[i + 1] = each[1], each[2]
end
reply[1] = 0
return reply

-- history with chronicle --
-- ARGV: prefix. Returns: now, what ended in the lanes (a list each), the lags (a hash), reconciles and actions (a list
-- each), the rates (a hash).
return {
  NOW, redis.call('LRANGE', history('events'), 0, -1), redis.call('LRANGE', history('backfill'), 0, -1),
  redis.call('HGETALL', LAG), redis.call('LRANGE', history('reconciles'), 0, -1),
  redis.call('LRANGE', history('actions'), 0, -1), redis.call('HGETALL', RATES),
}

-- attempts with chronicle --
-- ARGV: prefix, id. Returns the failures (JSON) of its attempts that another followed, the newest first.
local found, mark = {}, '"id":"' .. ARGV[2] .. '"'
for _, failure in ipairs(redis.call('LRANGE', history('attempts'), 0, -1)) do
  if string.find(failure, mark, 1, true) then found[#found + 1] = failure end
end
return found

-- note_action with chronicle --
-- Note an action of a person. ARGV: prefix, record (JSON), '1' if it is still to be logged by a process that runs for long.
local entry = string.format('%.0f ', NOW) .. ARGV[2]
allow_writes()
note_first(history('actions'), entry, HISTORY_ACTIONS)
if ARGV[3] == '1' then note_first(history('unlogged'), entry, HISTORY_ACTIONS) end
return 1

-- actions_to_log with chronicle --
-- Give the actions that are still to be logged, to one process once. ARGV: prefix. Returns them, the newest first.
local found = redis.call('LRANGE', history('unlogged'), 0, -1)
if #found > 0 then redis.call('DEL', history('unlogged')) end
return found

-- arrivals --
--   <prefix>:heard   hash "<host>/<project>" -> "<ms of its last event> <its id at Harbor or nothing>"
local HEARD, MOST_HEARD = prefix .. ':heard', 500
local function heard_at(text) return tonumber(string.match(text or '', '^%d+')) or 0 end

-- heard with arrivals --
-- Note which projects have sent events. ARGV: prefix, then for each: its name, ms since its last event, its id or ''.
for i = 2, #ARGV, 3 do
  local known, at = redis.call('HGET', HEARD, ARGV[i]), NOW - tonumber(ARGV[i + 1])
  -- What another process heard later counts; a time in the future was noted before the clock was set back.
  if heard_at(known) <= at or heard_at(known) > NOW then
    local id = ARGV[i + 2] ~= '' and ARGV[i + 2] or string.match(known or '', ' (%d+)$') or ''
    redis.call('HSET', HEARD, ARGV[i], string.format('%.0f ', at) .. id)
  end
end
local more = redis.call('HLEN', HEARD) - MOST_HEARD
if more > 0 then
  local all, order = redis.call('HGETALL', HEARD), {}
  for i = 1, #all, 2 do order[#order + 1] = {heard_at(all[i + 1]), all[i]} end
  table.sort(order, function(one, other) return one[1] < other[1] end)
  for i = 1, more do redis.call('HDEL', HEARD, order[i][2]) end
end
return more

-- heard_show with arrivals --
-- ARGV: prefix. Returns: now, and the names and records of the projects that were heard.
return {NOW, redis.call('HGETALL', HEARD)}

-- ping --
-- Write something small: it is refused, like an enqueue, when memory is full, the disk fails or this is a replica.
redis.call('SET', prefix .. ':ping', NOW, 'PX', 60000)
return 1
