-- The life of a job: enqueued, started, confirmed, renewed, finished; and the repair of what a loss left behind.

-- enqueue --
-- ARGV: prefix, lane, run or '', then for each job: id, arq's job, retries or '', '1' when it stands for several,
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

-- claim --
-- Start up to `count` jobs that are due: take their leases, in one step.
-- ARGV: prefix, lane, count, token (unique to this request), worker, lease in ms,
--       takeover: '1' when jobs of workers that died may be taken,
--       again: '1' when an earlier request with this token may have been carried out with its answer lost.
-- Returns: ms until the next job is due or -1, then for each job an array:
--       id, arq's job or nil, generation, failures, retries or nil, last failure or nil, running record, 1 if merged.
local lane, count, token, worker, lease_ms = ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], tonumber(ARGV[6])
local takeover, again = ARGV[7] == '1', ARGV[8] == '1'
local started = {}
allow_writes()

local function take(id, record)
  -- This attempt serves every push so far, including those of an attempt that died.
  local pushed = tonumber(redis.call('HGET', PUSHED, id))
  if pushed then
    redis.call('HDEL', PUSHED, id)
    record.pushed = math.min(pushed, record.pushed or pushed)
  end
  redis.call('SET', lease(id), record.token, 'PX', lease_ms)
  redis.call('ZADD', queue(lane_of(id) or lane), NOW + lease_ms, member(id))
  local text = cjson.encode(record)
  redis.call('HSET', RUNNING, id, text)
  started[#started + 1] = {
    id, redis.call('GET', job_key(id)), tonumber(redis.call('HGET', GEN, id) or 0), record.failures,
    redis.call('HGET', BOUND, id), redis.call('HGET', WAITING, id), text, redis.call('SISMEMBER', MERGED, id),
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
local reach = count + redis.call('HLEN', RUNNING)
local due = redis.call('ZRANGEBYSCORE', queue(lane), '-inf', NOW, 'WITHSCORES', 'LIMIT', 0, reach)
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
    take(id, {
      token = token .. ':' .. id, lane = lane, worker = worker, since = NOW, due = tonumber(due[i + 1]),
      failures = tonumber(redis.call('GET', failures_key(id)) or 0), bytes = 0,
      lapses = died and died.lapses + 1 or 0, pushed = died and died.pushed or nil,
    })
  end
end

local upcoming = redis.call('ZRANGEBYSCORE', queue(lane), '(' .. NOW, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
table.insert(started, 1, upcoming[2] and (tonumber(upcoming[2]) - NOW) or -1)
return started

-- confirm with generations observed --
-- The fence: prolong a lease right before its job's destination is written, and void what was observed there before.
-- ARGV: prefix, lease in ms, id, token, running record or '' to leave it, the destination's short name,
-- most items of a generation. Returns the tokens of leases that are lost: this one or none.
local lease_ms, id, token = tonumber(ARGV[2]), ARGV[3], ARGV[4]
if not has_lease(id, token) then return {token} end
-- Also when memory is full: this write is smaller than the job that it helps to get done.
allow_writes()
-- First, so that if it is refused, the lease is not confirmed and the tag is not written.
OBSERVED.keep(ARGV[6], string.format('%.0f ', NOW), tonumber(ARGV[7]))
renew_lease(id, token, lease_ms, ARGV[5])
return {}

-- renew --
-- Prolong leases. ARGV: prefix, lease in ms, then for each: id, token, running record or '' to leave it.
-- Returns the tokens of leases that are lost.
local lease_ms, lost = tonumber(ARGV[2]), {}
allow_writes()
for i = 3, #ARGV, 3 do
  local id, token, record = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if has_lease(id, token) then renew_lease(id, token, lease_ms, record) else lost[#lost + 1] = token end
end
return lost

-- finish with chronicle --
-- End an attempt, in one step. ARGV: prefix, id, token, generation seen at the start, lane it was started from,
--   how: 'done' | 'retry' | 'dead' | 'release', delay in ms, failures in a row,
--   record for the runs that wait, note: the failure of what waits ('retry') or the dead letter ('dead'),
--   entry for the history or '', lag in ms or ''.
-- Returns 'lost' (another worker has the lease: nothing was changed), 'queued again' (a newer enqueue), or `how`.
local id, token, seen, started_lane, how = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local delay, failures, record, note = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9], ARGV[10]

if not has_lease(id, token) then return 'lost' end
local running = redis.call('HGET', RUNNING, id)
redis.call('DEL', lease(id))
redis.call('HDEL', RUNNING, id)
local lane = lane_of(id) or started_lane
local newest = tonumber(redis.call('HGET', GEN, id) or 0)
-- A push that this attempt did not serve is left to the next one.
if how ~= 'done' and running then note_push(id, cjson.decode(running).pushed) end

if newest ~= seen then
  -- Enqueued while it ran: the copy may have missed the newer tag, so it runs again, however this attempt ended.
  redis.call('ZADD', queue(lane), NOW, member(id))
  -- A failure is not reported: the next attempt, at once, began after these runs asked too, and may go well.
  if how == 'done' then
    report_end(id, seen, record)
    note_ended(lane, ARGV[11], ARGV[12])
  end
  wake(lane)
  return 'queued again'
end
if how == 'done' then
  forget(id)
  report_end(id, seen, record)
  note_ended(lane, ARGV[11], ARGV[12])
elseif how == 'dead' then
  make_dead_letter(id, seen, note, record)
  note_ended(lane, ARGV[11], ARGV[12])
elseif how == 'retry' then
  redis.call('ZADD', queue(lane), NOW + delay, member(id))
  redis.call('SET', failures_key(id), failures)
  redis.call('HSET', WAITING, id, note)
  report_end(id, seen, record, failures)
else
  -- Handed back: to its former place in the queue, unless it has to wait.
  local due = delay > 0 and NOW + delay or running and cjson.decode(running).due or NOW
  redis.call('ZADD', queue(lane), due, member(id))
  wake(lane)
end
return how

-- sweep --
-- Repair what a loss inside Redis left behind (an eviction, a file restored in part): a pending job that is in no
-- queue goes back into one; a job whose content is gone becomes a dead letter.
-- ARGV: prefix, message for those, then ids. Returns the ids that were repaired.
local mended = {}
for i = 3, #ARGV do
  local id = ARGV[i]
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
