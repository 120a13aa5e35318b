-- The life of a job: enqueued, started, confirmed, renewed, finished; and the repair after a loss.

-- enqueue --
-- ARGV: prefix, lane, run or '', then for each job: id, arq's job, retries or '', '1' when it represents several,
-- when it was pushed in ms, or ''.
-- Returns how many of them were not pending before.
local woken, added = {}, 0
for i = 4, #ARGV, 5 do
  local target, pending = enqueue(ARGV[i], ARGV[i + 1], ARGV[2], ARGV[i + 2], ARGV[3], ARGV[i + 4])
  woken[target] = true
  if not pending then added = added + 1 end
  if ARGV[i + 3] == '1' then redis.call('SADD', MERGED, ARGV[i]) end
end
for lane in pairs(woken) do wake(lane) end
return added

-- hasten --
-- Make jobs due that wait for a retry after errors of a class, sooner than their back-off.
-- ARGV: prefix, class, how many of all waiting jobs are looked at, then for each reason: text, ms after the last failure.
-- A job has the reason if the text is in its content. One whose retries are limited is left to its back-off where a
-- reason names a time: a vague reason must not use up its attempts.
-- Returns the ids of the jobs.
local cursor, left, woken, hastened = '0', tonumber(ARGV[3]), {}, {}
if redis.call('EXISTS', WAITING) == 0 then return hastened end
allow_writes()
repeat
  local page = redis.call('HSCAN', WAITING, cursor, 'COUNT', math.min(left, 1000))
  cursor = page[1]
  for i = 1, #page[2], 2 do
    local id, text = page[2][i], page[2][i + 1]
    left = left - 1
    local failure = string.find(text, ARGV[2], 1, true) and cjson.decode(text)
    if failure and failure.error_class == ARGV[2] then
      local content, bound = redis.call('GET', job_key(id)) or '', redis.call('HEXISTS', BOUND, id) == 1
      local pause = math.huge
      for j = 4, #ARGV, 2 do
        local after = tonumber(ARGV[j + 1])
        if not (bound and after > 0) and string.find(content, ARGV[j], 1, true) then pause = math.min(pause, after) end
      end
      local lane = pause < math.huge and lane_of(id)
      if lane and redis.call('EXISTS', lease(id)) == 0 then
        -- A failure in the future was noted before the clock was set back.
        local due = math.max(NOW, math.min(failure.last, NOW) + pause)
        if due < tonumber(redis.call('ZSCORE', queue(lane), member(id))) then
          redis.call('ZADD', queue(lane), string.format('%.0f', due), member(id))
          hastened[#hastened + 1] = id
          woken[lane] = true
        end
      end
    end
  end
until cursor == '0' or left <= 0
for lane in pairs(woken) do wake(lane) end
return hastened

-- waits --
-- Jobs that wait for a key, such as a host that does not answer, without a lease, a slot or an attempt. Put in front of
-- the scripts that know of them.
--
-- A job needs a key if a string in its content begins with the key and a slash. It stays in its lane's queue with a
-- later time, so that a version of this program that knows no waits finds it too, sooner or later.
-- The record of a key: since, when it fell silent; why; open: it is certain; patience: ms of waiting that count as one
-- attempt; next: when one job is started as a probe; pause: ms until then, growing; probe: the id of that job; failed:
-- the worker to which the key did not answer last; back: when the key came back. The record is kept for a minute after
-- the last answer since then: answered, when that was; apart: until when a worker that alone gets no answer leaves the
-- key's jobs to the others, by worker.
local FALLBACK_MS, LONGEST_PAUSE_MS, SETTLE_MS, STALE_MS, AT_ONCE = 900000, 60000, 5000, 120000, 500
local REMEMBER_MS, OTHERS_MS, SIFTED = 60000, 2500, 100

local function get_wait(key)
  local text = redis.call('HGET', WAITS, key)
  return text and cjson.decode(text)
end

local function needs(content, key) return string.find(content, '"' .. key .. '/', 1, true) end

local function put_wait(key, record) redis.call('HSET', WAITS, key, cjson.encode(record)) end

local function all_waits()
  local records, all = {}, redis.call('HGETALL', WAITS)
  for i = 1, #all, 2 do records[all[i]] = cjson.decode(all[i + 1]) end
  return records
end

local function has_parked(key)
  for _, lane in ipairs(LANES) do
    if redis.call('EXISTS', parked(lane, key)) == 1 then return true end
  end
  return false
end

-- Returns the id that waits for longest; nil without one.
local function first_parked(lane, key)
  for _, id in ipairs(redis.call('ZRANGE', parked(lane, key), 0, AT_ONCE - 1)) do
    if redis.call('ZSCORE', queue(lane), member(id)) then return id end
    -- An older version of this program has run it, or an event has moved it into the other lane.
    redis.call('ZREM', parked(lane, key), id)
  end
end

-- Returns the job to start as a probe of a key: the first that needs no other silent key, if there is one near the
-- front, for another silence says nothing about this key.
local function next_probe(lane, key, others)
  local first = first_parked(lane, key)
  if not next(others) then return first end
  for _, id in ipairs(redis.call('ZRANGE', parked(lane, key), 0, SIFTED - 1)) do
    local content, alone = redis.call('GET', job_key(id)) or '', redis.call('ZSCORE', queue(lane), member(id))
    for other in pairs(others) do alone = alone and not needs(content, other) end
    if alone then return id end
  end
  return first
end

-- Whether a key has lately answered to others, a while after it fell silent for the one that reports it: then it is the
-- reporter that can't reach the key. A silence that others see too begins after their last answer.
local function answers_others(record, since)
  local answered = record and record.back and record.answered
  return answered and NOW - answered < REMEMBER_MS and answered > since + SETTLE_MS
end

-- Whether a worker should leave something to the others, because there are some.
local function has_others() return redis.call('HLEN', prefix .. ':workers') > 1 end

-- Returns ms until the first probe of a key whose silence one worker reports: where others may reach it, they soon try.
local function first_pause(pause) return has_others() and math.min(pause, SETTLE_MS) or pause end

-- Returns when a parked job has waited for too long, and has to hear so. A job whose retries are limited waits for no
-- longer than they would take, from the beginning of the silence; any other until its horizon.
local function gives_up(id, lane, key, record, due, horizon)
  local bound, attempt = tonumber(redis.call('HGET', BOUND, id)), record.patience or 60000
  for _, waiter in ipairs(redis.call('HVALS', waiters_key(id))) do
    local retries = tonumber(string.match(waiter, ':(%d+)$'))
    if retries then bound = math.min(bound or retries, retries) end
  end
  if bound then return record.since + (bound + 1) * attempt end
  due = tonumber(redis.call('ZSCORE', parked(lane, key), id) or due)
  return math.max(due, record.since) + horizon
end

local function park(id, lane, key, record, due, horizon)
  redis.call('ZADD', parked(lane, key), 'NX', due, id)
  local ends = gives_up(id, lane, key, record, due, horizon)
  redis.call('ZADD', queue(lane), math.max(NOW + 1000, math.min(NOW + FALLBACK_MS, ends)), member(id))
end

-- Put a part of the jobs of a key that is back where they were in their queues. Returns whether there are more.
local function unpark(key)
  for _, lane in ipairs(LANES) do
    local first = redis.call('ZRANGE', parked(lane, key), 0, AT_ONCE - 1, 'WITHSCORES')
    for i = 1, #first, 2 do
      local id = first[i]
      redis.call('ZREM', parked(lane, key), id)
      if redis.call('EXISTS', lease(id)) == 0 then
        redis.call('ZADD', queue(lane), 'XX', math.min(NOW, tonumber(first[i + 1])), member(id))
      end
    end
  end
  return has_parked(key)
end

local function end_wait(key, record)
  record.back, record.answered, record.probe, record.failed = NOW, NOW, nil, nil
  put_wait(key, record)
  for _, lane in ipairs(LANES) do wake(lane) end
  wake('waits')
end

-- wait_begin with waits --
-- Let jobs wait for a key. ARGV: prefix, key, since in ms, ms until a probe, '1' when it is certain, why.
local key, since, pause = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local record = get_wait(key)
local known = record and not record.back
allow_writes()
if not known then
  -- A process that has not heard of the answer yet must not stop those that have.
  if record and (NOW - record.back < SETTLE_MS or answers_others(record, since)) then return 0 end
  record = {since = since, next = NOW + first_pause(pause)}
end
record.since, record.why, record.open = math.min(record.since, since), ARGV[6], record.open or ARGV[5] == '1'
if not record.probe then record.next = record.next > NOW and math.min(record.next, NOW + pause) or NOW + pause end
put_wait(key, record)
if not known then wake('waits') end
return 1

-- wait_end with waits --
-- Let the jobs that wait for a key continue. ARGV: prefix, key.
local record = get_wait(ARGV[2])
allow_writes()
if record and not record.back then
  end_wait(ARGV[2], record)
elseif record then
  record.answered = NOW
  put_wait(ARGV[2], record)
end
return 1

-- wait_list with waits --
-- ARGV: prefix. Returns now, and for each key that jobs wait for: key, since in ms, why, '1' when it is certain, and how
-- many jobs wait in each lane.
local found = {NOW}
for key, record in pairs(all_waits()) do
  if not record.back then
    local entry = {key, string.format('%.0f', record.since), record.why or '', record.open and '1' or ''}
    for _, lane in ipairs(LANES) do entry[#entry + 1] = redis.call('ZCARD', parked(lane, key)) end
    found[#found + 1] = entry
  end
end
return found

-- clock with waits --
-- When Redis's clock is set back, what was due soon would wait for as long as that, and leases would not lapse. So what
-- lies ahead is brought forward by as much. Put in front of `claim`, which runs every two seconds at the least.
local BACK_MS, PAGE = 5000, 500

-- Bring forward what lies ahead in a sorted set of times.
local function bring_forward(key, by)
  -- By rank: the moved entries stay in front of the others.
  local rank, page = redis.call('ZCOUNT', key, '-inf', NOW), nil
  repeat
    page = redis.call('ZRANGE', key, rank, rank + PAGE - 1, 'WITHSCORES')
    local moved = {}
    for i = 1, #page, 2 do moved[i], moved[i + 1] = page[i + 1] - by, page[i] end
    if #moved > 0 then redis.call('ZADD', key, unpack(moved)) end
    rank = rank + PAGE
  until #page < 2 * PAGE
end

local function bring_waits_forward(by)
  local function nearer(time) return time and time > NOW and time - by or time end
  for key, record in pairs(all_waits()) do
    for _, lane in ipairs(LANES) do bring_forward(parked(lane, key), by) end
    for _, field in ipairs({'since', 'next', 'back', 'answered'}) do record[field] = nearer(record[field]) end
    for worker, ends in pairs(record.apart or {}) do record.apart[worker] = nearer(ends) end
    put_wait(key, record)
  end
end

local function notice_clock(lease_ms)
  local by = note_time() - NOW
  -- A failover to a replica whose clock is a little behind does not count.
  if by < BACK_MS then return end
  -- The newest time is up to a second older than what was queued last.
  for _, lane in ipairs(LANES) do bring_forward(queue(lane), by + 1000) end
  bring_waits_forward(by + 1000)
  -- Redis keeps the time at which a key expires: leases start again.
  for _, id in ipairs(redis.call('HKEYS', RUNNING)) do
    if redis.call('PTTL', lease(id)) > lease_ms then redis.call('PEXPIRE', lease(id), lease_ms) end
  end
  for _, writes in ipairs({WRITING, UNANSWERED}) do
    local all = redis.call('HGETALL', writes)
    for i = 1, #all, 2 do
      local limit, look, name = string.match(all[i + 1], '^(%d+) (%d+) (.*)$')
      local nearest = NOW + lease_ms
      if tonumber(limit) > nearest then
        redis.call('HSET', writes, all[i], string.format('%.0f %.0f %s', nearest, nearest + look - limit, name))
      end
    end
  end
  local now, span = string.format('%.0f', NOW), string.format('%.0f', by)
  redis.call('HSET', CLOCK, 'newest', now, 'back', now, 'by', span, 'untold', span)
end

-- unanswered with generations observed --
-- Writes to which no answer came: the registry may carry such a write out late, over a newer one. So no other write
-- begins before its limit, and the destination is compared once more after that, when all that is late has landed.
-- Put in front of the scripts that start and end attempts.

-- Say why a job waits, unless a failure says so: by the first of several it is decided when to give up.
local function note_why(id, message)
  local failure = {id = id, error_class = 'transient', message = message, tries = 0, first = NOW, last = NOW}
  redis.call('HSETNX', WAITING, id, cjson.encode(failure))
end

-- Remember that no answer came to the write of a destination that is under way, if there is one.
local function note_unanswered(id)
  local write = redis.call('HGET', WRITING, id)
  if not write then return end
  redis.call('HDEL', WRITING, id)
  redis.call('HSET', UNANSWERED, id, write)
  -- What the enqueue knew of the destination is not true any more.
  redis.call('SADD', MERGED, id)
  note_why(id, "a write of the tag was not answered: tried again when it can't be carried out any more")
  local look, name = string.match(write, '^%d+ (%d+) (.*)$')
  -- Dated ahead: nothing that is observed before the late write has landed counts.
  OBSERVED.keep(name, look .. ' ', math.huge)
end

-- Returns until when no other write may begin, and when the destination is to be compared again; nil without need.
local function unanswered(id)
  local limit, look = string.match(redis.call('HGET', UNANSWERED, id) or '', '^(%d+) (%d+) ')
  return tonumber(limit), tonumber(look)
end

-- Returns until when a job must not start; nil if it may. An attempt that starts late enough compares what is there.
local function held_until(id)
  -- Its worker died while it wrote.
  note_unanswered(id)
  local limit, look = unanswered(id)
  if limit and NOW < limit then return limit end
  if look and NOW >= look then redis.call('HDEL', UNANSWERED, id) end
end

-- Keep a job that is done, to compare its destination again.
local function compare_later(id, lane, look)
  redis.call('DEL', failures_key(id))
  for _, known in ipairs({BOUND, PUSHED, WAITING}) do redis.call('HDEL', known, id) end
  note_why(id, 'copied, but a write of the tag was not answered: compared again, as it may be carried out late')
  redis.call('ZADD', queue(lane), look, member(id))
end

-- claim with waits clock generations observed owned unanswered selection stops pauses --
-- Start up to `count` jobs that are due: take their leases, in one step.
-- ARGV: prefix, lane, count, token (unique to this request), worker, lease in ms,
--       takeover: '1' when jobs of workers that died may be taken,
--       again: '1' when an earlier request with this token may have been carried out with its answer lost,
--       horizon: ms for which a job may wait for a key; a day if it is left out,
--       the digest of the worker's configuration; empty or left out without one.
-- Returns: ms until the next job is due or -1, then for each job an array:
--       id, arq's job or nil, generation, failures, retries or nil, last failure or nil, running record, 1 if merged,
--       what <prefix>:foreign notes of it or '', what is remembered of its destination or ''.
local lane, count, token, worker, lease_ms = ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], tonumber(ARGV[6])
local takeover, again, horizon = ARGV[7] == '1', ARGV[8] == '1', tonumber(ARGV[9] or 86400000)
local started = {}
allow_writes()
notice_clock(lease_ms)

local waits, silent, not_ours, next_look = all_waits(), {}, {}, math.huge
local pauses, paused_jobs, pause_names, paused_lanes = read_pauses()
for name, pause in pairs(pauses) do
  if pause.ended then
    if unpark(pause_key(name)) then next_look = NOW else redis.call('HDEL', PAUSES, name) end
  end
end
if paused_lanes[lane] then count = 0 end

-- Park a job that is paused until it is resumed; for a silent key it waits no longer. Returns whether it is paused.
local function hold(id, due)
  local number = next(paused_jobs) and selected_by(paused_jobs, id, lane, redis.call('GET', job_key(id)))
  if not number then return false end
  for key in pairs(waits) do
    due = tonumber(redis.call('ZSCORE', parked(lane, key), id) or due)
    redis.call('ZREM', parked(lane, key), id)
  end
  for _, each in ipairs(LANES) do
    local key = parked(each, pause_key(pause_names[number]))
    -- An event may have moved it into this lane since it was parked.
    if each == lane then redis.call('ZADD', key, 'NX', due, id) else redis.call('ZREM', key, id) end
  end
  redis.call('ZADD', queue(lane), NOW + FALLBACK_MS, member(id))
  return true
end

for key, record in pairs(waits) do
  local apart = record.back and record.apart and record.apart[worker]
  if apart then not_ours[key] = apart end
  if record.back then
    if unpark(key) then
      next_look = NOW
    elseif NOW - math.max(record.back, record.answered or 0) >= REMEMBER_MS then
      redis.call('HDEL', WAITS, key)
    end
  elseif NOW - record.next > STALE_MS and not has_parked(key) then
    -- The process that knew of it is gone, and nothing needs it.
    redis.call('HDEL', WAITS, key)
  else
    silent[key] = record
  end
end
for key, record in pairs(silent) do
  -- Not the worker whose attempt was in vain, if another one takes it: the fault may be the worker's.
  local from = record.next + (record.failed == worker and has_others() and OTHERS_MS or 0)
  if count > 0 and first_parked(lane, key) then
    if from <= NOW then
      local others = {}
      for other in pairs(silent) do others[other] = other ~= key or nil end
      local id, held = next_probe(lane, key, others), 0
      while id and held < AT_ONCE and hold(id, NOW) do id, held = next_probe(lane, key, others), held + 1 end
      if held == AT_ONCE then
        next_look = NOW
      elseif id then
        record.probe, record.next = id, NOW + LONGEST_PAUSE_MS
        put_wait(key, record)
        redis.call('ZADD', queue(lane), 'XX', tonumber(redis.call('ZSCORE', parked(lane, key), id)), member(id))
      end
    else
      next_look = math.min(next_look, from)
    end
  end
end

-- Returns the silent key that a job has to wait for, and its record; nil if it may start.
local function waits_for(id, due)
  local content
  for _, record in pairs(silent) do
    -- Two silent keys must not wait for each other's probes.
    if record.probe == id then return nil end
  end
  for key, record in pairs(silent) do
    content = content or redis.call('GET', job_key(id)) or ''
    if needs(content, key) then
      -- A job whose patience is at its end starts once more, and hears the reason.
      if NOW < gives_up(id, lane, key, record, due, horizon) then return key, record end
    end
  end
end

-- Whether a job is left to other workers: but for one now and then, to see whether this worker reaches the key again.
local function is_left(id)
  local content, tries = next(not_ours) and redis.call('GET', job_key(id)) or '', {}
  for key, ends in pairs(not_ours) do
    if needs(content, key) then
      if ends > NOW then
        next_look = math.min(next_look, ends)
        return true
      end
      tries[#tries + 1] = key
    end
  end
  for _, key in ipairs(tries) do
    not_ours[key] = NOW + LONGEST_PAUSE_MS
    waits[key].apart[worker] = not_ours[key]
    put_wait(key, waits[key])
  end
  return false
end

local function take(id, record)
  -- This attempt serves every push so far, including those of an attempt that died.
  local pushed = tonumber(redis.call('HGET', PUSHED, id))
  if pushed then
    redis.call('HDEL', PUSHED, id)
    record.pushed = math.min(pushed, record.pushed or pushed)
  end
  local place = lane_of(id) or lane
  local asked = tonumber(redis.call('ZSCORE', pending_key(place, id), id))
  if asked and asked < FAR then record.asked = math.min(asked, record.asked or asked) end
  redis.call('ZADD', pending_key(place, id), FAR, id)
  local content = next(silent) and redis.call('GET', job_key(id)) or ''
  local function leave(key)
    for _, each in ipairs(LANES) do
      local due = redis.call('ZSCORE', parked(each, key), id)
      if due then
        record.due = tonumber(due)
        redis.call('ZREM', parked(each, key), id)
      end
    end
  end
  for key, wait in pairs(waits) do
    if silent[key] and needs(content, key) then record.waits_since = wait.since end
    leave(key)
  end
  for name in pairs(pauses) do leave(pause_key(name)) end
  redis.call('SET', lease(id), record.token, 'PX', lease_ms)
  redis.call('ZADD', queue(place), NOW + lease_ms, member(id))
  local text = cjson.encode(record)
  redis.call('HSET', RUNNING, id, text)
  started[#started + 1] = {
    id, redis.call('GET', job_key(id)), tonumber(redis.call('HGET', GEN, id) or 0), record.failures,
    redis.call('HGET', BOUND, id), redis.call('HGET', WAITING, id), text, redis.call('SISMEMBER', MERGED, id),
    take_back(id) or '', get_owned(id) or '',
  }
end

if again then
  local running = redis.call('HGETALL', RUNNING)
  for i = 1, #running, 2 do
    local record = cjson.decode(running[i + 1])
    if string.sub(record.token, 1, #token + 1) == token .. ':' and has_lease(running[i], record.token) then
      take(running[i], record)
    end
  end
end

-- As many more as run: an expired lease whose job may not be taken over must not hide what is behind it.
local sifts = next(silent) or next(not_ours) or next(paused_jobs)
local reach = count + redis.call('HLEN', RUNNING) + (sifts and AT_ONCE or 0)
local put_off = 0
local due = redis.call('ZRANGEBYSCORE', queue(lane), '-inf', NOW, 'WITHSCORES', 'LIMIT', 0, reach)
-- First what others have left to this worker's configuration. In the queue it is due later, so that they pass it over.
local own, left_to_us = ARGV[10] or '', {}
if own ~= '' and count > 0 then left_to_us = redis.call('ZRANGE', foreign(lane, own), 0, count - 1, 'WITHSCORES') end
for i = #left_to_us - 1, 1, -2 do
  local id, place = left_to_us[i], math.min(NOW, tonumber(left_to_us[i + 1]))
  redis.call('ZREM', foreign(lane, own), id)
  -- One that is not there was ended by an older version of this program, or an event has moved it.
  if redis.call('ZSCORE', queue(lane), member(id)) then
    redis.call('ZADD', queue(lane), place, member(id))
    table.insert(due, 1, string.format('%.0f', place))
    table.insert(due, 1, member(id))
  end
end
for i = 1, #due, 2 do
  if #started >= count then break end
  local id = string.sub(due[i], #prefix + 2)
  local left = redis.call('PTTL', lease(id))
  local before = redis.call('HGET', RUNNING, id)
  local died = before and cjson.decode(before)
  if left > 0 then
    -- Due although its lease lives, as after a restored file or a clock set back: it is put where it belongs, and not
    -- started a second time.
    redis.call('ZADD', queue(lane), NOW + left, due[i])
  elseif takeover or not before then
    local held = held_until(id)
    local key, wait = waits_for(id, tonumber(due[i + 1]))
    local stop, generation = stop_of(id, died and died.token)
    -- A cancelled job waits no longer.
    if stop == 'cancel' then died.pushed, died.asked = nil, FAR end
    if stop == 'cancel' and generation >= tonumber(redis.call('HGET', GEN, id) or 0) then
      -- Its worker died before it heard of that.
      forget(id)
      report_end(id, generation, cancelled_record(id))
      redis.call('HDEL', STOPS, id)
    elseif hold(id, tonumber(due[i + 1])) then
      if died then give_back(id, lane, died) end
      redis.call('HDEL', RUNNING, id)
      put_off = put_off + 1
    elseif held then
      redis.call('ZADD', queue(lane), held, due[i])
    elseif key then
      if died then give_back(id, lane, died) end
      redis.call('HDEL', RUNNING, id)
      park(id, lane, key, wait, tonumber(due[i + 1]), horizon)
      put_off = put_off + 1
    elseif not is_left(id) then take(id, {
      token = token .. ':' .. id, lane = lane, worker = worker, since = NOW, due = tonumber(due[i + 1]),
      failures = tonumber(redis.call('GET', failures_key(id)) or 0), bytes = 0,
      lapses = died and died.lapses + 1 or 0, pushed = died and died.pushed or nil,
      asked = died and died.asked or nil,
    }) end
  end
end
if put_off > 0 and #due >= 2 * reach then next_look = NOW end
if own ~= '' and #started < count and redis.call('EXISTS', foreign(lane, own)) == 1 then next_look = NOW end

local upcoming = redis.call('ZRANGEBYSCORE', queue(lane), '(' .. NOW, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
next_look = math.min(next_look, tonumber(upcoming[2] or math.huge))
table.insert(started, 1, next_look < math.huge and math.max(0, next_look - NOW) or -1)
return started

-- confirm with outbox generations observed owned unanswered stops --
-- The fence: prolong a lease right before its job's destination is written, and void what was observed there before.
-- ARGV: prefix, lease in ms, id, token, running record or '' to leave it, the destination's short name,
-- most items of a generation, ms that the write may take, ms after that until the destination is compared again if no
-- answer comes, what is remembered of the destination from now on or '' for no change. Returns the latest observation of
-- the destination, "time wanted", or '', as it was before; then the tokens of leases that are lost: this one or none; or
-- how it shall end with its token.
local lease_ms, id, token = tonumber(ARGV[2]), ARGV[3], ARGV[4]
if not has_lease(id, token) then return {'', token} end
local stop = stop_of(id, token)
if stop then return {'', {stop, token}} end
-- Also when memory is full: this write is smaller than the job that it helps to get done.
allow_writes()
-- First, so that if it is refused, the lease is not confirmed and the tag is not written.
local _, look = unanswered(id)
local observed = OBSERVED.get(ARGV[6]) or ''
void_observation(ARGV[6], math.max(NOW, look or 0), tonumber(ARGV[7]))
local limit = NOW + tonumber(ARGV[8])
redis.call('HSET', WRITING, id, string.format('%.0f %.0f %s', limit, limit + tonumber(ARGV[9]), ARGV[6]))
keep_owned(id, ARGV[10])
note_untold(id, token)
renew_lease(id, token, lease_ms, ARGV[5])
return {observed}

-- renew with stops --
-- Prolong leases. ARGV: prefix, lease in ms, then for each: id, token, running record or '' to leave it.
-- Returns the tokens of leases that are lost; and of attempts that shall end, how ('pause' or 'cancel') with the token.
local lease_ms, lost = tonumber(ARGV[2]), {}
allow_writes()
for i = 3, #ARGV, 3 do
  local id, token, record = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if has_lease(id, token) then
    renew_lease(id, token, lease_ms, record)
    local stop = stop_of(id, token)
    if stop then lost[#lost + 1] = {stop, token} end
  else
    lost[#lost + 1] = token
  end
end
return lost

-- finish with outbox chronicle waits generations observed owned unanswered stops --
-- End an attempt, in one step. ARGV: prefix, id, token, generation seen at the start, lane it was started from,
--   how: 'done' | 'retry' | 'wait' | 'dead' | 'release' | 'cancel' | 'foreign', delay in ms, failures in a row,
--   record for the runs that wait, note: the failure of what waits ('retry', 'wait') or the dead letter ('dead'),
--   entry for the history and the outbox or '', with a '-' in front for the outbox alone; lag in ms or '', '1' when no answer came to a write of the destination;
--   and for a failure that has to do with a key:
--   the key, since when it is silent in ms, ms of waiting that count as one attempt, horizon in ms, why,
--   the attempts that its waiting counts as; or for one that went well, where it is known: the keys that answered, each
--   with a space behind it. Without those, it is the key that the id begins with: an id is a destination.
--   or for 'foreign': what <prefix>:foreign notes of the job.
-- Returns 'lost' (another worker has the lease: nothing was changed), 'queued again' (a newer enqueue), or `how`, which
-- is 'cancel' for every attempt but a successful one if the job was cancelled meanwhile.
local FOREIGN_MS, MOST_FOREIGN_MS = 5000, 600000
local id, token, seen, started_lane, how = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local delay, failures, record, note = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9], ARGV[10]

if not has_lease(id, token) then return 'lost' end
local running = redis.call('HGET', RUNNING, id)
redis.call('DEL', lease(id))
redis.call('HDEL', RUNNING, id)
local runner = running and cjson.decode(running)
local stop, generation = stop_of(id, token)
redis.call('HDEL', STOPS, id)
if stop == 'cancel' then
  -- What was enqueued until then is cancelled too, and what was enqueued since is not.
  seen = math.max(seen, generation)
  if how ~= 'done' then how, record = 'cancel', cancelled_record(id) end
elseif how == 'cancel' then
  how = 'release'
end
-- An attempt in the future began before the clock was set back.
if runner then runner.due, runner.since = math.min(runner.due, NOW), math.min(runner.since, NOW) end
local lane = lane_of(id) or started_lane
local newest = tonumber(redis.call('HGET', GEN, id) or 0)
if ARGV[13] == '1' then note_unanswered(id) else redis.call('HDEL', WRITING, id) end
local limit, look = unanswered(id)
local earliest = math.max(NOW, limit or 0)
if how == 'done' then note_told(id) end
-- A push that this attempt did not serve is left to the next one.
if how ~= 'done' and how ~= 'cancel' and runner then give_back(id, lane, runner) end

-- Note the end for people and for receivers.
local function note_end()
  local entry = ARGV[11] or ''
  local is_kept = string.sub(entry, 1, 1) ~= '-'
  note_ended(lane, is_kept and entry or '', ARGV[12])
  post_end(id, token, is_kept and entry or string.sub(entry, 2))
end

-- Returns when a key certainly answered to this attempt; nil if that is not known.
local function answered_at(key)
  if how ~= 'done' then return nil end
  local is_destination = string.sub(id, 1, #key + 1) == key .. '/'
  local told = ARGV[14] and ' ' .. ARGV[14]
  if told and not string.find(told, ' ' .. key .. ' ', 1, true) or not told and not is_destination then return nil end
  -- A destination is written at the end; a source may have been read long before that.
  return is_destination and NOW or runner and runner.since
end

for key, wait in pairs(all_waits()) do
  local answered = answered_at(key)
  if answered and not wait.back and (wait.probe == id or answered > wait.since) then
    end_wait(key, wait)
  elseif answered and wait.back then
    wait.answered = math.max(answered, wait.answered or 0)
    if wait.apart and runner then wait.apart[runner.worker] = nil end
    put_wait(key, wait)
  elseif wait.probe == id and not wait.back and (how ~= 'wait' or ARGV[14] ~= key) then
    -- A probe that ended otherwise says nothing of the key: another job may.
    wait.probe, wait.next = nil, NOW
    put_wait(key, wait)
    for _, each in ipairs(LANES) do wake(each) end
  end
end

if newest ~= seen then
  -- Enqueued while it ran: the copy may have missed the newer tag, so it runs again, however this attempt ended.
  redis.call('ZADD', queue(lane), earliest, member(id))
  -- A failure is not reported: the next attempt, at once, began after these runs asked too, and may go well.
  if how == 'done' or how == 'cancel' then report_end(id, seen, record, nil, runner and runner.worker) end
  if how == 'done' then note_end() end
  wake(lane)
  return 'queued again'
end
-- A login is not refused to one worker alone.
local silent = runner and ARGV[15] and string.sub(ARGV[14], 1, 6) ~= 'login:' and get_wait(ARGV[14])
if how == 'cancel' then
  forget(id)
  report_end(id, seen, record)
elseif silent and answers_others(silent, tonumber(ARGV[15])) then
  -- Its place in the queue is its own: for others there is no reason to wait, or to give up.
  how, silent.apart = 'wait', silent.apart or {}
  for each, ends in pairs(silent.apart) do
    if NOW - ends >= REMEMBER_MS then silent.apart[each] = nil end
  end
  silent.apart[runner.worker] = NOW + math.max(1000, math.min(delay, LONGEST_PAUSE_MS))
  put_wait(ARGV[14], silent)
  redis.call('ZADD', queue(lane), runner.due, member(id))
  wake(lane)
elseif how == 'done' then
  if look then compare_later(id, lane, look) else forget(id) end
  report_end(id, seen, record, nil, runner and runner.worker)
  note_end()
elseif how == 'dead' then
  make_dead_letter(id, seen, note, record)
  note_end()
elseif how == 'retry' then
  redis.call('ZADD', queue(lane), math.max(NOW + delay, earliest), member(id))
  redis.call('SET', failures_key(id), failures)
  redis.call('HSET', WAITING, id, note)
  note_attempt(note)
  report_end(id, seen, record, tonumber(ARGV[19] or failures))
elseif how == 'wait' then
  local key, wait = ARGV[14], get_wait(ARGV[14])
  local due = runner and runner.due or NOW
  redis.call('HSET', WAITING, id, note)
  note_attempt(note)
  report_end(id, seen, record, tonumber(ARGV[19]))
  if wait and wait.back and NOW - wait.back < SETTLE_MS then
    -- The key has just come back, and the worker that failed had not heard of it.
    redis.call('ZADD', queue(lane), NOW + 1000, member(id))
  else
    local known = wait and not wait.back
    if not known then wait = {since = tonumber(ARGV[15]), why = ARGV[18], probe = id} end
    if runner and wait.probe == id then wait.failed = runner.worker end
    wait.since, wait.patience = math.min(wait.since, tonumber(ARGV[15])), tonumber(ARGV[16])
    if wait.probe == id then
      -- The newest word on a login, e.g. when it is sent again. That of a host is kept by wait_begin.
      if not wait.open then wait.why = ARGV[18] end
      wait.pause = math.min(LONGEST_PAUSE_MS, 2 * (wait.pause or 500))
      local pause = delay > 0 and math.min(delay, LONGEST_PAUSE_MS) or wait.pause
      wait.probe, wait.next = nil, NOW + (known and pause or first_pause(pause))
    end
    put_wait(key, wait)
    park(id, lane, key, wait, due, tonumber(ARGV[17]))
    if not known then wake('waits') end
  end
elseif how == 'foreign' then
  local owner = string.match(ARGV[14], '^%S*')
  local theirs = foreign(lane, owner)
  redis.call('HSET', FOREIGN, id, ARGV[14])
  redis.call('ZADD', theirs, runner and runner.due or NOW, id)
  -- In the queue it is due later, in case no process with that configuration takes it. The more there are, the
  -- later: fifty a second are looked at in vain. An older version takes it from there alone.
  local pause = math.max(owner == '' and 1000 or FOREIGN_MS, math.min(20 * redis.call('ZCARD', theirs), MOST_FOREIGN_MS))
  redis.call('ZADD', queue(lane), math.max(NOW + pause, earliest), member(id))
  -- What an older version of this program has ended is not taken out of these.
  for _, each in ipairs({FOREIGN, theirs}) do redis.call('PEXPIRE', each, 6 * MOST_FOREIGN_MS) end
  wake(lane)
else
  -- Handed back: to its former place in the queue, unless it has to wait.
  local due = delay > 0 and NOW + delay or runner and runner.due or NOW
  redis.call('ZADD', queue(lane), math.max(due, limit or 0), member(id))
  wake(lane)
end
return how

-- sweep --
-- Repair what a loss inside Redis left behind (an eviction, a file restored in part): a pending job that is in no
-- queue goes back into one; a job whose content is gone becomes a dead letter. An older version of this program knows
-- nothing of the jobs that wait behind one which it has ended: the first of them takes its place.
-- ARGV: prefix, message for those, then ids. Returns the ids that were repaired.
local mended = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  if redis.call('HEXISTS', GEN, id) == 0 then
    if redis.call('HEXISTS', RIVALS, id) == 1 then
      promote(id)
      mended[#mended + 1] = id
    end
  else
    local lane = lane_of(id) or 'events'
    -- An older version of this program does not note it.
    if not redis.call('ZSCORE', pending_key(lane, id), id) then note_pending(id, lane, redis.call('HGET', PUSHED, id)) end
  end
  if redis.call('HEXISTS', GEN, id) == 1 and redis.call('EXISTS', lease(id)) == 0 then
    if redis.call('EXISTS', job_key(id)) == 0 then
      local record = {id = id, outcome = cjson.null, error = ARGV[2], error_class = 'permanent', tries = 0,
        seconds = 0, retrying = false}
      local letter = {id = id, lane = lane_of(id) or 'events', error_class = 'permanent', message = ARGV[2],
        tries = 0, first = NOW, last = NOW, payload = cjson.null}
      make_dead_letter(id, tonumber(redis.call('HGET', GEN, id)), cjson.encode(letter), cjson.encode(record))
      mended[#mended + 1] = id
    elseif not lane_of(id) then
      redis.call('ZADD', queue('events'), NOW, member(id))
      -- Whether it was merged is lost too; merged is the safe answer.
      redis.call('SADD', MERGED, id)
      wake('events')
      mended[#mended + 1] = id
    end
  end
end
return mended
