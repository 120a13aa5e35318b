-- The move of a queue into another Redis: read here, added there, forgotten here. Each step can be repeated.
-- Times travel as ages in ms, because the two clocks may differ.

-- move_jobs_out --
-- ARGV: prefix, how many. Nothing else uses this queue, so a job that ran has no worker any more.
-- Returns the first pending jobs, each as: id, lane, ms since it was due (negative for one that waits), arq's job,
-- retries or '', failed attempts in a row, the last failure or '', '1' if merged, when it was pushed in ms or '',
-- what to know of a write without an answer: "<ms until its limit> <ms until it is compared> <name>" or '', the jobs of
-- other sources that wait behind it (JSON) or '', for how many ms it waits.
local found, left, silent = {}, tonumber(ARGV[2]), redis.call('HKEYS', WAITS)
for _, name in ipairs(redis.call('HKEYS', prefix .. ':pauses')) do silent[#silent + 1] = 'pause:' .. name end
for _, lane in ipairs(LANES) do
  local page = left > 0 and redis.call('ZRANGE', queue(lane), 0, left - 1, 'WITHSCORES') or {}
  for i = 1, #page, 2 do
    local id, due = string.sub(page[i], #prefix + 2), tonumber(page[i + 1])
    local pushed = tonumber(redis.call('HGET', PUSHED, id))
    local asked = tonumber(redis.call('ZSCORE', pending_key(lane, id), id)) or NOW
    local running = redis.call('HGET', RUNNING, id)
    if running then
      local record = cjson.decode(running)
      due, pushed = math.min(due, record.due), math.min(pushed or math.huge, record.pushed or math.huge)
      asked = math.min(asked, record.asked or record.since)
    end
    local owner = string.match(redis.call('HGET', FOREIGN, id) or '', '^%S+')
    if owner then due = math.min(due, tonumber(redis.call('ZSCORE', foreign(lane, owner), id) or due)) end
    for _, key in ipairs(silent) do due = math.min(due, tonumber(redis.call('ZSCORE', parked(lane, key), id) or due)) end
    local late = redis.call('HGET', WRITING, id) or redis.call('HGET', UNANSWERED, id) or ''
    local limit, look, name = string.match(late, '^(%d+) (%d+) (.*)$')
    found[#found + 1] = {
      id, lane, string.format('%.0f', NOW - due), redis.call('GET', job_key(id)) or '', redis.call('HGET', BOUND, id) or '',
      redis.call('GET', failures_key(id)) or '0', redis.call('HGET', WAITING, id) or '',
      tostring(redis.call('SISMEMBER', MERGED, id)),
      pushed and pushed < math.huge and string.format('%.0f', pushed) or '',
      limit and string.format('%.0f %.0f %s', limit - NOW, look - NOW, name) or '',
      redis.call('HGET', RIVALS, id) or '', string.format('%.0f', math.max(0, NOW - asked)),
    }
  end
  left = left - #page / 2
end
return found

-- move_jobs_in --
-- ARGV: prefix, then for each job the twelve values of move_jobs_out. A job that is pending here, or a dead letter, keeps
-- its newer content, and is merged with the one that comes; one with another source runs after it.
local woken = {}
for i = 2, #ARGV, 12 do
  local id, lane, age, failures, failure, late = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 5], ARGV[i + 6], ARGV[i + 9]
  local content = redis.call('GET', job_key(id)) or redis.call('HGET', DEAD_JOBS, id) or ''
  if content == '' or is_rival(id, content, ARGV[i + 3]) then content = ARGV[i + 3] end
  local target, pending = enqueue(id, content, lane, ARGV[i + 4], '', ARGV[i + 8])
  note_pending(id, target, NOW - ARGV[i + 11])
  if not pending then
    redis.call('ZADD', queue(target), string.format('%.0f', NOW - age), member(id))
    if tonumber(failures) > 0 then redis.call('SET', failures_key(id), failures) end
    if failure ~= '' then redis.call('HSET', WAITING, id, failure) end
  end
  -- What the enqueue knew of the destination is not true after a write that may be carried out late.
  if ARGV[i + 7] == '1' or late ~= '' then redis.call('SADD', MERGED, id) end
  local limit, look, name = string.match(late, '^(%-?%d+) (%-?%d+) (.*)$')
  if limit then redis.call('HSETNX', UNANSWERED, id, string.format('%.0f %.0f %s', NOW + limit, NOW + look, name)) end
  for _, rival in ipairs(cjson.decode(ARGV[i + 10] ~= '' and ARGV[i + 10] or '[]')) do
    enqueue(id, rival.job, rival.lane, rival.retries, '', rival.pushed)
  end
  woken[target] = true
end
for lane in pairs(woken) do wake(lane) end

-- move_jobs_away --
-- Forget jobs that another Redis has. ARGV: prefix, then ids.
local silent = redis.call('HKEYS', WAITS)
for i = 2, #ARGV do
  -- First: what waits behind a job that is gone would take its place.
  redis.call('HDEL', RIVALS, ARGV[i])
  forget(ARGV[i])
  redis.call('DEL', waiters_key(ARGV[i]))
  redis.call('HDEL', WRITING, ARGV[i])
  redis.call('HDEL', UNANSWERED, ARGV[i])
  for _, lane in ipairs(LANES) do
    for _, key in ipairs(silent) do redis.call('ZREM', parked(lane, key), ARGV[i]) end
  end
end

-- move_letters_out --
-- ARGV: prefix, about how many. Returns dead letters, each as: id, record, arq's job.
local found, cursor = {}, '0'
repeat
  local page = redis.call('HSCAN', DEAD, cursor, 'COUNT', ARGV[2])
  cursor = page[1]
  for i = 1, #page[2], 2 do
    local id = page[2][i]
    found[#found + 1] = {id, page[2][i + 1], redis.call('HGET', DEAD_JOBS, id) or ''}
  end
until cursor == '0' or #found > 0
return found

-- move_letters_in --
-- ARGV: prefix, then for each dead letter: id, record, arq's job. A record of the same destination here is newer, and stays.
redis.call('INCR', SEQ)
for i = 2, #ARGV, 3 do
  local id = ARGV[i]
  local is_newer = redis.call('HEXISTS', GEN, id) == 1 and not is_rival(id, redis.call('GET', job_key(id)), ARGV[i + 2])
  if not is_newer and redis.call('HEXISTS', DEAD, id) == 0 then
    redis.call('HSET', DEAD, id, ARGV[i + 1])
    redis.call('HSET', DEAD_JOBS, id, ARGV[i + 2])
    -- Older than any mark: it was reported before the move.
    redis.call('ZADD', DEAD_ORDER, 0, id)
  end
end

-- move_letters_away --
-- ARGV: prefix, then ids.
for i = 2, #ARGV do
  redis.call('HDEL', DEAD, ARGV[i])
  redis.call('HDEL', DEAD_JOBS, ARGV[i])
  redis.call('ZREM', DEAD_ORDER, ARGV[i])
end

-- move_pauses_in --
-- ARGV: prefix, then names and pauses (JSON). One that is known here stays as it is.
for i = 2, #ARGV, 2 do redis.call('HSETNX', prefix .. ':pauses', ARGV[i], ARGV[i + 1]) end

-- move_owned_in with generations owned --
-- ARGV: prefix, then short names of destinations and their records. A record here is newer, and stays.
redis.call('INCR', SEQ)
for i = 2, #ARGV, 2 do
  if not OWNED.get(ARGV[i]) then OWNED.keep(ARGV[i], ARGV[i + 1], MOST_OWNED) end
end

-- move_history_out with chronicle --
-- ARGV: prefix. Returns pairs: the name of a list, its entries; last the lags as names and values.
local found = {}
for _, name in ipairs(HISTORIES) do
  found[#found + 1] = name
  found[#found + 1] = redis.call('LRANGE', history(name), 0, -1)
end
found[#found + 1] = redis.call('HGETALL', LAG)
return found

-- move_history_in with chronicle --
-- Merge entries into a list by their time; one that is there already counts once. ARGV: prefix, name, entries.
redis.call('INCR', SEQ)
local key, known, all = history(ARGV[2]), {}, {}
local function add(entry)
  if not known[entry] then
    known[entry] = true
    all[#all + 1] = {tonumber(string.match(entry, '^%d+') or 0), #all, entry}
  end
end
for _, entry in ipairs(redis.call('LRANGE', key, 0, -1)) do add(entry) end
for i = 3, #ARGV do add(ARGV[i]) end
-- Entries of one moment keep their order.
table.sort(all, function(a, b) return a[1] > b[1] or a[1] == b[1] and a[2] < b[2] end)
redis.call('DEL', key)
local most = ARGV[2] == 'reconciles' and HISTORY_RECONCILES or HISTORY_JOBS
for i = 1, math.min(#all, most) do redis.call('RPUSH', key, all[i][3]) end

-- move_lags_in with chronicle --
-- ARGV: prefix, then names and values. A quarter of an hour that has lags here stays as it is.
for i = 2, #ARGV, 2 do redis.call('HSETNX', LAG, ARGV[i], ARGV[i + 1]) end
