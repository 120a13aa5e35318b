-- The life of a job: put in place, claimed, confirmed, renewed, finished; and what a dead worker left behind.

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
-- ARGV: prefix, lane, count, token (unique to this claim), worker, lease in ms,
--       takeover: '1' when jobs of workers that died may be taken,
--       again: '1' when an earlier claim with this token may have been made without its answer being heard.
-- Returns: ms until the next job is due or -1, then for each job an array:
--       id, arq's job or nil, generation, failures, retries or nil, last failure or nil, running record, 1 if merged.
local lane, count, token, worker, lease_ms = ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], tonumber(ARGV[6])
local takeover, again = ARGV[7] == '1', ARGV[8] == '1'
local claimed = {}
allow_writes()

local function take(id, record)
  -- The pushes until now are this try's; those of a try that came to no end are too.
  local pushed = tonumber(redis.call('HGET', PUSHED, id))
  if pushed then
    redis.call('HDEL', PUSHED, id)
    record.pushed = math.min(pushed, record.pushed or pushed)
  end
  redis.call('SET', lease(id), record.token, 'PX', lease_ms)
  redis.call('ZADD', queue(lane_of(id) or lane), NOW + lease_ms, member(id))
  local text = cjson.encode(record)
  redis.call('HSET', RUNNING, id, text)
  claimed[#claimed + 1] = {
    id, redis.call('GET', job_key(id)), tonumber(redis.call('HGET', GEN, id) or 0), record.failures,
    redis.call('HGET', BOUND, id), redis.call('HGET', WAITING, id), text, redis.call('SISMEMBER', MERGED, id),
  }
end

if again then
  local running = redis.call('HGETALL', RUNNING)
  for i = 1, #running, 2 do
    local record = cjson.decode(running[i + 1])
    if string.sub(record.token, 1, #token + 1) == token .. ':' and holds(running[i], record.token) then
      take(running[i], record)
    end
  end
end

local reach = count + redis.call('HLEN', RUNNING)
local due = redis.call('ZRANGEBYSCORE', queue(lane), '-inf', NOW, 'WITHSCORES', 'LIMIT', 0, reach)
for i = 1, #due, 2 do
  if #claimed >= count then break end
  local id = string.sub(due[i], #prefix + 2)
  local left = redis.call('PTTL', lease(id))
  local before = redis.call('HGET', RUNNING, id)
  local died = before and cjson.decode(before)
  if left > 0 then
    redis.call('ZADD', queue(lane), NOW + left, due[i])
  elseif takeover or not before then
    take(id, {
      token = token .. ':' .. id, lane = lane, worker = worker, since = NOW, due = tonumber(due[i + 1]),
      failures = tonumber(redis.call('GET', tries_key(id)) or 0), bytes = 0,
      lapses = died and died.lapses + 1 or 0, pushed = died and died.pushed or nil,
    })
  end
end

local upcoming = redis.call('ZRANGEBYSCORE', queue(lane), '(' .. NOW, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
table.insert(claimed, 1, upcoming[2] and (tonumber(upcoming[2]) - NOW) or -1)
return claimed

-- confirm with generations checks --
-- Prolong a lease right before its job's destination is written, and make void what was seen there until now.
-- ARGV: prefix, lease in ms, id, token, running record or '' to leave it, the destination's name in checks,
-- most items of a generation. Returns the tokens of leases that are lost: this one or none.
local lease_ms, id, token = tonumber(ARGV[2]), ARGV[3], ARGV[4]
if not holds(id, token) then return {token} end
-- Also when memory is full: what is put here is smaller than the job that it helps to get done.
allow_writes()
-- First: if it can't be put, the lease is not confirmed, and nothing is written.
CHECKS.keep(ARGV[6], string.format('%.0f ', NOW), tonumber(ARGV[7]))
renew(id, token, lease_ms, ARGV[5])
return {}

-- renew --
-- Prolong leases. ARGV: prefix, lease in ms, then for each: id, token, running record or '' to leave it.
-- Returns the tokens of leases that are lost.
local lease_ms, lost = tonumber(ARGV[2]), {}
allow_writes()
for i = 3, #ARGV, 3 do
  local id, token, record = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if holds(id, token) then renew(id, token, lease_ms, record) else lost[#lost + 1] = token end
end
return lost

-- finish with chronicle --
-- End a try, in one step. ARGV: prefix, id, token, generation seen at the start, lane it was claimed from,
--   how: 'done' | 'retry' | 'dead' | 'release', delay in ms, failures in a row,
--   record for those who wait, note: the failure of what waits ('retry') or the dead letter ('dead'),
--   entry for the history or '', lag in ms or ''.
-- Returns 'lost' (the lease is another's: nothing was changed), 'queued again' (a newer enqueue), or `how`.
local id, token, seen, claimed_lane, how = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local delay, failures, record, note = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9], ARGV[10]

if not holds(id, token) then return 'lost' end
local running = redis.call('HGET', RUNNING, id)
redis.call('DEL', lease(id))
redis.call('HDEL', RUNNING, id)
local lane = lane_of(id) or claimed_lane
local newest = tonumber(redis.call('HGET', GEN, id) or 0)
-- What was not served is to be served by the next try.
if how ~= 'done' and running then note_push(id, cjson.decode(running).pushed) end

if newest ~= seen then
  redis.call('ZADD', queue(lane), NOW, member(id))
  -- A failed try tells nobody: the one that follows at once also began after they asked, and may go well.
  if how == 'done' then
    answer(id, seen, record)
    note_ended(lane, ARGV[11], ARGV[12])
  end
  wake(lane)
  return 'queued again'
end
if how == 'done' then
  forget(id)
  answer(id, seen, record)
  note_ended(lane, ARGV[11], ARGV[12])
elseif how == 'dead' then
  bury(id, seen, note, record)
  note_ended(lane, ARGV[11], ARGV[12])
elseif how == 'retry' then
  redis.call('ZADD', queue(lane), NOW + delay, member(id))
  redis.call('SET', tries_key(id), failures)
  redis.call('HSET', WAITING, id, note)
  answer(id, seen, record, failures)
else
  -- Handed back: to the place in the queue that it had, unless it has to wait.
  local due = delay > 0 and NOW + delay or running and cjson.decode(running).due or NOW
  redis.call('ZADD', queue(lane), due, member(id))
  wake(lane)
end
return how

-- sweep --
-- Repair what a loss inside Redis left behind (an eviction, a file restored in part): a pending job that stands in no
-- queue goes back into one; one whose content is gone becomes a dead letter.
-- ARGV: prefix, message for those, then ids. Returns the ids that were put right.
local mended = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  if redis.call('HEXISTS', GEN, id) == 1 and redis.call('EXISTS', lease(id)) == 0 then
    if redis.call('EXISTS', job_key(id)) == 0 then
      local record = {id = id, outcome = cjson.null, error = ARGV[2], error_class = 'permanent', tries = 0,
        seconds = 0, retrying = false}
      local letter = {id = id, lane = lane_of(id) or 'events', error_class = 'permanent', message = ARGV[2],
        tries = 0, first = NOW, last = NOW, payload = cjson.null}
      bury(id, tonumber(redis.call('HGET', GEN, id)), cjson.encode(letter), cjson.encode(record))
      mended[#mended + 1] = id
    elseif not lane_of(id) then
      redis.call('ZADD', queue('events'), NOW, member(id))
      -- Of what was lost nobody knows whether it told of a merge.
      redis.call('SADD', MERGED, id)
      wake('events')
      mended[#mended + 1] = id
    end
  end
end
return mended
