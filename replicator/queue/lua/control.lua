-- Actions of people on pending jobs: pause and resume, cancel, list.

-- selection --
-- Selections of jobs by a person. Put in front of the scripts that select jobs.
--
-- A selection has the fields rule, source, destination, host, lane and run, each of which may be missing; a job is
-- selected if it matches all that are there. All but lane and run are globs: `*` and `?` stop at a slash, `**` does not.

local function globs(glob, text)
  if glob == text then return true end
  local byte, STAR, MARK, SLASH = string.byte, 42, 63, 47
  -- After a mismatch the last star takes one character more or, if it can't, the last double star does.
  local i, j, star, at, wide, from = 1, 1, nil, nil, nil, nil
  while j <= #text do
    local char, letter = byte(glob, i), byte(text, j)
    if char == STAR and byte(glob, i + 1) == STAR then
      while byte(glob, i) == STAR do i = i + 1 end
      wide, from, star = i, j, nil
    elseif char == STAR then
      i = i + 1
      star, at = i, j
    elseif char == letter or char == MARK and letter ~= SLASH then
      i, j = i + 1, j + 1
    elseif star and byte(text, at) ~= SLASH then
      at = at + 1
      i, j = star, at
    elseif wide then
      -- What a star could not reach before this slash, it can't reach from a later start in the same segment either.
      from = star and string.find(text, '/', from + 1, true) or not star and from + 1
      if not from then return false end
      i, j, star = wide, from, nil
    else
      return false
    end
  end
  return string.find(glob, '^%**$', i) ~= nil
end

-- Returns an image with and without its host and its tag, and its host.
local function forms(image)
  local host, name = string.match(image, '^([^/]+)/(.+)$')
  if not host then return {image}, '' end
  local repository = string.match(name, '^[^:@]+') or name
  return {image, name, host .. '/' .. repository, repository}, host
end

local function any_form(glob, image)
  for _, form in ipairs((forms(image))) do
    if globs(glob, form) then return true end
  end
  return false
end

local function host_matches(glob, image)
  local _, host = forms(image)
  return globs(glob, host)
end

-- Returns a text field of a job's payload; '' if it is missing.
local function field_of(content, name)
  content = content or ''
  -- A name that is there once, with a value that has no escapes, need not be decoded, which takes five times as long.
  local head = '"' .. name .. '":"'
  local _, last = string.find(content, head, 1, true)
  local value = last and string.match(content, '^([^"\\]*)"', last + 1)
  if value and not string.find(content, head, last, true) then return value end
  local ok, job = pcall(cjson.decode, content)
  local payload = ok and type(job) == 'table' and type(job.k) == 'table' and job.k.payload
  value = type(payload) == 'table' and payload[name]
  return type(value) == 'string' and value or ''
end

local function has_field(selections, names)
  for _, selection in ipairs(selections) do
    for _, name in ipairs(names) do
      if selection[name] then return true end
    end
  end
  return false
end

local function wants_content(selections) return has_field(selections, {'rule', 'source', 'host'}) end

-- Returns the number of the first selection that a job matches; nil if it matches none. runs: those that wait for its
-- end, if it waits behind another.
local function selected_by(selections, id, lane, content, runs)
  local function awaits(run) return runs and runs[run] or not runs and redis.call('HEXISTS', waiters_key(id), run) == 1 end
  for number, want in ipairs(selections) do
    if (not want.lane or want.lane == lane)
      and (not want.run or awaits(want.run))
      and (not want.destination or any_form(want.destination, id))
      and (not want.rule or globs(want.rule, field_of(content, 'rule')))
      and (not want.source or any_form(want.source, field_of(content, 'source')))
      and (not want.host or (host_matches(want.host, id) or host_matches(want.host, field_of(content, 'source')))) then
      return number
    end
  end
end

-- Returns the pending jobs of a page of HSCAN that are selected: id, generation, lane, content, and the token of the
-- attempt that runs. The content is there if a selection wants it, or with_content.
local function select_page(fields, selections, with_content)
  local ids, generations, jobs, leases, found = {}, {}, {}, {}, {}
  for i = 1, #fields, 2 do
    local id = fields[i]
    ids[#ids + 1], generations[#ids + 1], jobs[#ids + 1], leases[#ids + 1] = id, fields[i + 1], job_key(id), lease(id)
  end
  if #ids == 0 then return found end
  local contents = (with_content or wants_content(selections)) and redis.call('MGET', unpack(jobs)) or {}
  local owners, wants_lane = redis.call('MGET', unpack(leases)), with_content or has_field(selections, {'lane'})
  for n, id in ipairs(ids) do
    local lane = wants_lane and lane_of(id) or nil
    if selected_by(selections, id, lane, contents[n]) then
      found[#found + 1] = {id = id, generation = tonumber(generations[n]), lane = lane, content = contents[n], owner = owners[n]}
    end
  end
  return found
end

local function read_selections(first)
  local selections = {}
  for i = first, #ARGV do selections[#selections + 1] = cjson.decode(ARGV[i]) end
  return selections
end

-- stops --
-- Attempts that are to end early. Put in front of the scripts that renew and end attempts.
--
--   <prefix>:stops             hash id -> "how generation token": 'pause' to hand the job back, 'cancel' to forget its
--                              enqueues up to the generation
local STOPS, STOPS_EXPIRY = prefix .. ':stops', 86400000

-- Returns how an attempt shall end, and the generation of the job when that was decided; nil if it goes on.
local function stop_of(id, token)
  local how, generation, of = string.match(redis.call('HGET', STOPS, id) or '', '^(%a+) (%d+) (.*)$')
  if of and of == token then return how, tonumber(generation) end
end

local function stop_attempt(id, how, generation, token)
  redis.call('HSET', STOPS, id, string.format('%s %.0f %s', how, generation, token))
  redis.call('PEXPIRE', STOPS, STOPS_EXPIRY)
end

-- Returns the record for the runs that wait for a job that was cancelled.
local function cancelled_record(id)
  -- Written out, as 100,000 of them are made at once.
  return '{"id":' .. cjson.encode(id) .. ',"outcome":null,"error":"cancelled","error_class":null,"tries":0,"seconds":0,'
    .. '"retrying":false,"cancelled":true}'
end

-- pauses --
-- Jobs that are not started until a person resumes them. Put in front of the scripts that know of pauses, after waits
-- and selection.
--
-- While a whole lane is paused, its jobs stay in their queue. If only some jobs are paused, those that are due are parked,
-- as for a key that does not answer, so that they do not hide the jobs behind them in the queue.
--
--   <prefix>:pauses            hash name -> JSON: selection, since, by; ended, when it was resumed and until no job is
--                              parked any more
local PAUSES, MOST_PAUSES = prefix .. ':pauses', 100

local function pause_key(name) return 'pause:' .. name end

-- Returns the pauses by name; selections and names of those in force; and which lanes are paused as a whole.
local function read_pauses()
  local pauses, selections, names, whole, all = {}, {}, {}, {}, redis.call('HGETALL', PAUSES)
  for i = 1, #all, 2 do
    local name, pause = all[i], cjson.decode(all[i + 1])
    pauses[name] = pause
    if not pause.ended then
      local want, is_whole = pause.selection, true
      for field in pairs(want) do is_whole = is_whole and field == 'lane' end
      for _, lane in ipairs(is_whole and LANES or {}) do
        whole[lane] = whole[lane] or not want.lane or want.lane == lane
      end
      if not is_whole then selections[#selections + 1], names[#names + 1] = want, name end
    end
  end
  return pauses, selections, names, whole
end

-- Returns how many jobs of each lane are parked for pauses.
local function count_parked()
  local counts = {events = 0, backfill = 0}
  for _, name in ipairs(redis.call('HKEYS', PAUSES)) do
    for _, lane in ipairs(LANES) do counts[lane] = counts[lane] + redis.call('ZCARD', parked(lane, pause_key(name))) end
  end
  return counts
end

-- pause with waits selection stops pauses --
-- Start no job of a selection until it is resumed. ARGV: prefix, name, selection (JSON), by, '1' to hand running ones
-- back. Returns since when it is paused in ms, or 0 if there are too many pauses; and how many running ones were told.
local text = redis.call('HGET', PAUSES, ARGV[2])
local pause, told = text and cjson.decode(text), 0
if not (pause and not pause.ended) then
  if not pause and redis.call('HLEN', PAUSES) >= MOST_PAUSES then return {0, 0} end
  pause = {selection = cjson.decode(ARGV[3]), since = NOW, by = ARGV[4]}
  allow_writes()
  redis.call('HSET', PAUSES, ARGV[2], cjson.encode(pause))
end
if ARGV[5] == '1' then
  local running = redis.call('HGETALL', RUNNING)
  for i = 1, #running, 2 do
    local id, token = running[i], cjson.decode(running[i + 1]).token
    -- One that was cancelled is not handed back.
    if redis.call('GET', lease(id)) == token and stop_of(id, token) ~= 'cancel'
      and selected_by({pause.selection}, id, lane_of(id), redis.call('GET', job_key(id))) then
      stop_attempt(id, 'pause', redis.call('HGET', GEN, id) or 0, token)
      told = told + 1
    end
  end
  wake('stops')
end
return {pause.since, told}

-- resume with waits pauses --
-- End pauses. ARGV: prefix, then names. Returns the names of those that were in force.
local ended = {}
allow_writes()
for i = 2, #ARGV do
  local text = redis.call('HGET', PAUSES, ARGV[i])
  local pause = text and cjson.decode(text)
  if pause and not pause.ended then
    pause.ended = NOW
    redis.call('HSET', PAUSES, ARGV[i], cjson.encode(pause))
    ended[#ended + 1] = ARGV[i]
  end
end
for _, lane in ipairs(LANES) do wake(lane) end
return ended

-- pause_list with waits pauses --
-- ARGV: prefix. Returns for each pause in force: its record (JSON), and how many jobs it holds that were due.
local found, all = {}, redis.call('HGETALL', PAUSES)
for i = 1, #all, 2 do
  local pause, held, only_lane = cjson.decode(all[i + 1]), 0, true
  for field in pairs(pause.selection) do only_lane = only_lane and field == 'lane' end
  for _, lane in ipairs(LANES) do
    held = held + redis.call('ZCARD', parked(lane, pause_key(all[i])))
    if only_lane and (pause.selection.lane or lane) == lane then
      held = held + redis.call('ZCOUNT', queue(lane), '-inf', NOW)
    end
  end
  if not pause.ended then found[#found + 1] = {all[i + 1], held} end
end
return found

-- job_cancel with waits selection stops pauses --
-- Delete a page of the selected pending jobs, and stop the running ones.
-- A job of another source that waits behind one is selected by its own content.
-- ARGV: prefix, cursor ('0' for the first page), about how many jobs are looked at, '1' to change nothing, selections.
-- Returns: the cursor of the next page or '0', of how many ids jobs were forgotten, the ids of those that run and were
-- told.
local page = redis.call('HSCAN', GEN, ARGV[2], 'COUNT', ARGV[3])
local dry, gone, members, doomed, awaited, told, is_gone, is_told = ARGV[4] == '1', {}, {}, {}, {}, {}, {}, {}
local selections = read_selections(5)
if not dry then allow_writes() end

-- Forget the selected ones of the jobs that wait behind another. Returns whether there were any.
local function forget_rivals(id)
  local text = redis.call('HGET', RIVALS, id)
  local left, dropped = {}, {}
  for _, rival in ipairs(text and cjson.decode(text) or {}) do
    local list = selected_by(selections, id, rival.lane, rival.job, rival.waiters) and dropped or left
    list[#list + 1] = rival
  end
  if #dropped > 0 and not dry then
    if #left > 0 then redis.call('HSET', RIVALS, id, cjson.encode(left)) else redis.call('HDEL', RIVALS, id) end
    for _, rival in ipairs(dropped) do
      for run in pairs(rival.waiters) do tell_run(run, cancelled_record(id)) end
    end
  end
  return #dropped > 0
end

for _, job in ipairs(select_page(page[2], selections, false)) do
  local id = job.id
  if job.owner then
    told[#told + 1], is_told[id] = id, true
    if not dry then
      stop_attempt(id, 'cancel', job.generation, job.owner)
      for _, lane in ipairs(LANES) do redis.call('ZADD', pending_key(lane, id), 'XX', FAR, id) end
    end
  else
    local n = #gone + 1
    gone[n], is_gone[id] = id, true
    if not dry then
      members[n], doomed[2 * n - 1], doomed[2 * n], awaited[n] = member(id), job_key(id), failures_key(id), waiters_key(id)
    end
  end
end
if #told > 0 and not dry then wake('stops') end
local number, has_rivals = #gone, redis.call('EXISTS', RIVALS) == 1
for i = 1, has_rivals and #page[2] or 0, 2 do
  local id = page[2][i]
  if forget_rivals(id) and not is_gone[id] and not is_told[id] then number = number + 1 end
end
if dry or #gone == 0 then return {page[1], number, unpack(told)} end
redis.call('DEL', unpack(doomed))
if redis.call('EXISTS', WRITING) == 1 then
  -- Their workers died while they wrote.
  for _, id in ipairs(gone) do
    local write = redis.call('HGET', WRITING, id)
    if write then redis.call('HSET', UNANSWERED, id, write) end
  end
  redis.call('HDEL', WRITING, unpack(gone))
end
-- A look whether the key exists is cheaper than passing hundreds of ids.
local function remove(command, key, names)
  if redis.call('EXISTS', key) == 1 then redis.call(command, key, unpack(names)) end
end
for _, hash in ipairs({GEN, WAITING, BOUND, PUSHED, RUNNING, STOPS}) do remove('HDEL', hash, gone) end
remove('SREM', MERGED, gone)
local keys = {}
for _, name in ipairs(redis.call('HKEYS', PAUSES)) do keys[#keys + 1] = pause_key(name) end
for key, record in pairs(all_waits()) do
  keys[#keys + 1] = key
  if is_gone[record.probe or ''] then
    record.probe, record.next = nil, NOW
    put_wait(key, record)
  end
end
for _, lane in ipairs(LANES) do
  local pending = {}
  for _, id in ipairs(gone) do
    local key = pending_key(lane, id)
    pending[key] = pending[key] or {}
    table.insert(pending[key], id)
  end
  for key, ids in pairs(pending) do remove('ZREM', key, ids) end
  remove('ZREM', queue(lane), members)
  for _, key in ipairs(keys) do remove('ZREM', parked(lane, key), gone) end
end
if redis.call('EXISTS', FOREIGN) == 1 then
  for _, id in ipairs(gone) do take_back(id) end
  redis.call('HDEL', FOREIGN, unpack(gone))
end
if redis.call('EXISTS', unpack(awaited)) > 0 then
  -- As report_end does, with fewer commands.
  local streams = {}
  for n, id in ipairs(gone) do
    for _, run in ipairs(redis.call('HKEYS', awaited[n])) do
      streams[run] = prefix .. ':finished:' .. run
      redis.call('XADD', streams[run], '*', 'finished', cancelled_record(id))
    end
  end
  for _, stream in pairs(streams) do redis.call('PEXPIRE', stream, FINISHED_EXPIRY) end
  redis.call('DEL', unpack(awaited))
end
for _, id in ipairs(has_rivals and gone or {}) do promote(id) end
return {page[1], number, unpack(told)}

-- job_list with waits selection pauses --
-- Returns a page of the selected pending jobs.
-- ARGV: prefix, cursor ('0' for the first page), about how many jobs are looked at, most that are given, selections.
-- Returns: the cursor of the next page or '0', how many are selected, then for each that is given: id, state, lane,
-- when it is due in ms, its content or nil, its last failure (JSON) or nil, the name of its pause or nil.
local page = redis.call('HSCAN', GEN, ARGV[2], 'COUNT', ARGV[3])
local found, _, selections, names, whole = {}, read_pauses()
local jobs = select_page(page[2], read_selections(5), true)
for n = 1, math.min(#jobs, tonumber(ARGV[4])) do
  local job = jobs[n]
  local id, lane, content = job.id, job.lane or 'events', job.content or nil
  local due = tonumber(redis.call('ZSCORE', queue(lane), member(id)) or NOW)
  local failure, number = redis.call('HGET', WAITING, id), selected_by(selections, id, lane, content)
  local state = due > NOW and 'waiting' or 'queued'
  if job.owner then state = 'running' elseif number or whole[lane] then state = 'paused' end
  found[#found + 1] = {id, state, lane, string.format('%.0f', due), content or false, failure, names[number] or false}
end
return {page[1], #jobs, unpack(found)}
