-- Keys and steps that the scripts share; put in front of each. ARGV[1] is the prefix of the installation.
--
-- A script is not rolled back when it fails half-way. Redis refuses the first write of a script when memory is full,
-- and none after it: so what adds work begins with INCR, which is refused, and what works it off with DEL, which is not.
-- All times are Redis's own, in milliseconds, because the clocks of workers differ.
--
--   <prefix>:seq               counter of enqueues
--   <prefix>:gen               hash id -> number of its newest enqueue (its generation); the set of all that is pending
--   <prefix>:queue:<lane>      arq's queue: job -> when it is due; while it runs: when its lease expires
--   arq:job:<job>              arq's job; <job> is <prefix>:<id>
--   arq:in-progress:<job>      its lease: a token, with an expiry
--   arq:retry:<job>            failed attempts in a row
--   <prefix>:running           hash id -> JSON: token, worker, since, ...; survives the lease when a worker dies
--   <prefix>:waiting           hash id -> JSON: the last failure of a job that waits for a retry
--   <prefix>:bound             hash id -> how many retries it has, where that is limited
--   <prefix>:merged            set of the pending ids whose payload represents more than one enqueue
--   <prefix>:pushed            hash id -> time of the oldest push not yet picked up by an attempt (sender's clock)
--   <prefix>:pending:<lane>:<host>  sorted set of the ids that are pending for a destination's host -> since when the oldest
--                              enqueue waits that no attempt serves: when it was pushed, if that is known; else FAR
--   <prefix>:writing           hash id -> "limit look name": its destination is being written. Until when that may take, when
--                              the destination is compared again if no answer comes, and its short name
--   <prefix>:unanswered        the same, of a write to which no answer came: it may be carried out late
--   <prefix>:waits             hash key -> JSON: what jobs wait for without an attempt, see "waits" in jobs.lua
--   <prefix>:waits:<lane>:<key>  sorted set of the ids that wait for it -> when they were due
--   <prefix>:foreign           hash id -> "digest asked...": a job that is left to processes with another configuration. The
--                              digest of theirs, then those that know nothing of it, each with a space before it
--   <prefix>:foreign:<lane>:<digest>  sorted set of the ids that are left to that configuration -> when they were due
--   <prefix>:configs, :turns   hash digest -> JSON, counter: see "configured" in processes.lua
--   <prefix>:waiters:<id>      hash run -> "generation:retries": the runs that wait for its end
--   <prefix>:finished:<run>    stream of ends for one run
--   <prefix>:rivals            hash id -> JSON list: jobs with other sources than the pending one, which run after it, each
--                              with the runs that wait for its end, and their retries or ''
--   <prefix>:dead, :dead-jobs  hashes id -> JSON record, id -> arq's job
--   <prefix>:buried            sorted set of the ids of dead letters, in the order of their death: a number of :seq
--   <prefix>:workers           hash worker -> JSON: its sign of life
--   <prefix>:processes         hash process -> JSON: its sign of life, and which configuration it runs with
--   <prefix>:clock             hash: newest, the newest time of Redis that was seen; back, by, when its clock was set back last
--                              and by how many ms; untold, the same until it is logged
--   <prefix>:ping              what a ping writes
--   <prefix>:reconcile         hash: started, when the last reconcile that ended began; result, what it found (JSON);
--                              succeeded, when the last one ended that compared everything; rules, see leaders.lua;
--                              approved, when the one began whose replacements a person has approved; requests, taken,
--                              served, numbers of those that somebody asked for, see leaders.lua
--   <prefix>:reconcile:lease   JSON: the process that runs one (token, host, pid), since when, how far; with an expiry
--   <prefix>:notices           messages sent to people, and messages still to be sent (JSON)
--   <prefix>:notices:lease     the process that sends it: a token, with an expiry
--   <prefix>:notices:complaints  hash token -> JSON: what a process complains of (host, text, since), and until when
--                              that counts
--   <prefix>:lost              JSON: at, images, examples: what a run last found missing that had been in place
-- and those of control.lua, processes.lua, memory.lua, blob_locks.lua, looks.lua and outbox.lua.
local prefix = ARGV[1]
local GEN, SEQ, RUNNING, WAITING = prefix .. ':gen', prefix .. ':seq', prefix .. ':running', prefix .. ':waiting'
local BOUND, MERGED, PUSHED = prefix .. ':bound', prefix .. ':merged', prefix .. ':pushed'
local WAITS, WRITING, UNANSWERED = prefix .. ':waits', prefix .. ':writing', prefix .. ':unanswered'
local CLOCK, FOREIGN, RIVALS = prefix .. ':clock', prefix .. ':foreign', prefix .. ':rivals'
local DEAD, DEAD_JOBS, DEAD_ORDER = prefix .. ':dead', prefix .. ':dead-jobs', prefix .. ':buried'
local LANES = {'events', 'backfill'}
local FINISHED_EXPIRY, FAR = 86400000, 9e15

local clock = redis.call('TIME')
local NOW = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function queue(lane) return prefix .. ':queue:' .. lane end
local function member(id) return prefix .. ':' .. id end
local function lease(id) return 'arq:in-progress:' .. member(id) end
local function job_key(id) return 'arq:job:' .. member(id) end
local function failures_key(id) return 'arq:retry:' .. member(id) end
local function parked(lane, key) return WAITS .. ':' .. lane .. ':' .. key end
local function foreign(lane, digest) return FOREIGN .. ':' .. lane .. ':' .. digest end
local function waiters_key(id) return prefix .. ':waiters:' .. id end

-- Begin with a write that is allowed when memory is full: the work in the queue must still get done.
local function allow_writes() redis.call('DEL', prefix .. ':none') end

-- Note the time, at most once a second, as each command is written to the append-only file. Returns the newest time that
-- was seen before.
local function note_time()
  local newest = tonumber(redis.call('HGET', CLOCK, 'newest') or 0)
  if NOW - newest >= 1000 then redis.call('HSET', CLOCK, 'newest', string.format('%.0f', NOW)) end
  return newest
end

local function lane_of(id)
  for _, lane in ipairs(LANES) do
    if redis.call('ZSCORE', queue(lane), member(id)) then return lane end
  end
end

-- pcall: if an ACL forbids the channel, all else still works; workers then find the work when they poll.
local function wake(lane) redis.pcall('PUBLISH', prefix .. ':wake', lane) end

-- Take a job out of the set of those that are left to another configuration. Returns what is noted of it, or false.
local function take_back(id)
  local noted = redis.call('HGET', FOREIGN, id)
  if noted then
    local digest = string.match(noted, '^%S*')
    for _, lane in ipairs(LANES) do redis.call('ZREM', foreign(lane, digest), id) end
  end
  return noted
end

-- Whether a token has the lease of a job. An expired lease is still its own if no worker took the job since: then
-- nothing else ran meanwhile.
local function has_lease(id, token)
  local owner = redis.call('GET', lease(id))
  if owner then return owner == token end
  local record = redis.call('HGET', RUNNING, id)
  return record and cjson.decode(record).token == token
end

-- Prolong a lease, after allow_writes. record: the new running record, or '' to leave it.
local function renew_lease(id, token, lease_ms, record)
  redis.call('SET', lease(id), token, 'PX', lease_ms)
  -- arq's queue holds running jobs too: their score is when they may be taken over.
  for _, lane in ipairs(LANES) do redis.call('ZADD', queue(lane), 'XX', NOW + lease_ms, member(id)) end
  if record ~= '' then redis.call('HSET', RUNNING, id, record) end
end

-- Note a push that no attempt serves yet; the oldest counts. at: in ms, or '' or nil when that is unknown.
local function note_push(id, at)
  at = tonumber(at)
  local known = tonumber(redis.call('HGET', PUSHED, id))
  if at and not (known and known <= at) then redis.call('HSET', PUSHED, id, string.format('%.0f', at)) end
end

-- An id is a destination, which begins with its host.
local function pending_key(lane, id) return prefix .. ':pending:' .. lane .. ':' .. string.match(id, '^[^/]*') end

-- Note that a job is pending, and since when it waits; the oldest time counts. at: in ms, or '' or nil for now.
local function note_pending(id, lane, at)
  redis.call('ZADD', pending_key(lane, id), 'LT', string.format('%.0f', tonumber(at) or NOW), id)
end

-- Let the enqueues that an attempt served wait again. record: the attempt's, of any version of this program.
local function give_back(id, lane, record)
  note_push(id, record.pushed)
  note_pending(id, lane, record.asked or record.pushed or record.since)
end

-- Two jobs with one id and different sources would write one destination. They are not merged, or one source's image would
-- stand for the other's without a word: one runs after the other, and its handler finds that they collide. Jobs of
-- signatures, and those whose id has a digest, bring the same content from any source.
local MOST_RIVALS = 8

local function source_of(job)
  if not job or string.find(job, '"signature":true', 1, true) then return nil end
  return string.match(job, '"source":"([^"]*)"')
end

local function is_rival(id, job, other)
  if string.find(id, '@', 1, true) then return false end
  local one, two = source_of(job), source_of(other)
  return one and two and one ~= two
end

-- Keep a job until the pending one with another source has ended. Of one source the newest job counts; if there are too
-- many sources, the last one gives way.
local function wait_behind(id, rival)
  local rivals = cjson.decode(redis.call('HGET', RIVALS, id) or '[]')
  local place = math.min(#rivals + 1, MOST_RIVALS)
  for i, other in ipairs(rivals) do
    if not is_rival(id, other.job, rival.job) then place = i end
  end
  local before = rivals[place] and rivals[place].pushed or ''
  if before ~= '' and (rival.pushed == '' or tonumber(before) < tonumber(rival.pushed)) then rival.pushed = before end
  rival.asked = math.min(rival.asked, rivals[place] and rivals[place].asked or rival.asked)
  for run, limit in pairs(rivals[place] and rivals[place].waiters or {}) do
    rival.waiters[run] = rival.waiters[run] or limit
  end
  rivals[place] = rival
  redis.call('HSET', RIVALS, id, cjson.encode(rivals))
end

-- Whether a pending job only waits: for a retry, for a key that does not answer, or for another configuration.
local function only_waits(id)
  local waits = redis.call('HEXISTS', WAITING, id) == 1 or redis.call('HEXISTS', FOREIGN, id) == 1
  return waits and redis.call('EXISTS', lease(id)) == 0
end

-- Have the pending job, which only waits, make way for one with another source: its own may be away for long, or for good.
-- Returns when the other one was pushed, and since when it waits, if it had made way itself; nil without one.
local function make_way(id, present, job, generation)
  local rivals, others, former, waiters = cjson.decode(redis.call('HGET', RIVALS, id) or '[]'), {}, {}, {}
  local lane, running = lane_of(id) or 'events', redis.call('HGET', RUNNING, id)
  if running then
    -- Its worker died. What that attempt served stays with the job, and is not what the other one is for.
    local record = cjson.decode(running)
    give_back(id, lane, record)
    record.pushed, record.asked = nil, NOW
    redis.call('HSET', RUNNING, id, cjson.encode(record))
  end
  for _, rival in ipairs(rivals) do
    if is_rival(id, rival.job, job) then others[#others + 1] = rival else former = rival end
  end
  -- The runs that wait for it must not take the other's end for its own.
  local all = redis.call('HGETALL', waiters_key(id))
  for i = 1, #all, 2 do waiters[all[i]] = string.match(all[i + 1], '%d*$') end
  if #others < #rivals then redis.call('HSET', RIVALS, id, #others > 0 and cjson.encode(others) or '[]') end
  wait_behind(id, {
    job = present, lane = lane, retries = redis.call('HGET', BOUND, id) or '',
    pushed = redis.call('HGET', PUSHED, id) or '', waiters = waiters,
    asked = math.min(NOW, tonumber(redis.call('ZSCORE', pending_key(lane, id), id)) or NOW),
  })
  redis.call('ZREM', pending_key(lane, id), id)
  redis.call('HDEL', BOUND, id)
  redis.call('HDEL', PUSHED, id)
  redis.call('DEL', waiters_key(id))
  for run, retries in pairs(former.waiters or {}) do redis.call('HSET', waiters_key(id), run, generation .. ':' .. retries) end
  return former.pushed, former.asked
end

-- Forget a dead letter. Returns whether there was one.
local function forget_letter(id)
  redis.call('HDEL', DEAD_JOBS, id)
  redis.call('ZREM', DEAD_ORDER, id)
  return redis.call('HDEL', DEAD, id) == 1
end

-- Queue the next job that waits behind one that has ended.
local function promote(id)
  local text = redis.call('HGET', RIVALS, id)
  if not text then return end
  local rivals = cjson.decode(text)
  local rival = table.remove(rivals, 1)
  if #rivals > 0 then redis.call('HSET', RIVALS, id, cjson.encode(rivals)) else redis.call('HDEL', RIVALS, id) end
  -- A number of its own, and its runs with it: what is reported of the job before it is not meant for them.
  local generation = redis.call('INCR', SEQ)
  redis.call('HSET', GEN, id, generation)
  redis.call('SET', job_key(id), rival.job)
  redis.call('SADD', MERGED, id)
  if rival.retries ~= '' then redis.call('HSET', BOUND, id, rival.retries) end
  for run, retries in pairs(rival.waiters) do redis.call('HSET', waiters_key(id), run, generation .. ':' .. retries) end
  note_push(id, rival.pushed)
  note_pending(id, rival.lane, rival.asked or rival.pushed)
  redis.call('ZADD', queue(rival.lane), NOW, member(id))
  wake(rival.lane)
end

-- Queue a job, merged with its unfinished earlier enqueues in any state, and with its dead letter. An
-- event delivered twice counts as two enqueues: comparing the payloads (they differ in their time) would cost more than
-- the one request that an unmerged job may save. A job with another source than the pending one waits behind it, and
-- leaves the dead letter of another source alone.
-- Returns the lane it is in, and whether it was pending before.
local function enqueue(id, job, lane, retries, run, pushed)
  local same_letter = not is_rival(id, redis.call('HGET', DEAD_JOBS, id), job)
  local pending = redis.call('HEXISTS', GEN, id) == 1
  local present = pending and redis.call('GET', job_key(id))
  local rival = is_rival(id, present, job)
  local generation = redis.call('INCR', SEQ)
  note_time()
  local asked = tonumber(pushed) or NOW
  if rival and only_waits(id) then
    local former, since = make_way(id, present, job, generation)
    note_push(id, former)
    asked = math.min(asked, since or asked)
  elseif rival then
    local waiters = {[run] = run ~= '' and retries or nil}
    wait_behind(id, {job = job, lane = lane, retries = retries, pushed = pushed, waiters = waiters, asked = asked})
    if same_letter then forget_letter(id) end
    return lane_of(id) or lane, true
  end
  redis.call('HSET', GEN, id, generation)
  -- An older version of this program, which knows no pushes, leaves them behind when the job is done.
  if not pending then redis.call('HDEL', PUSHED, id) end
  note_push(id, pushed)
  local before = redis.call('SET', job_key(id), job, 'GET')
  redis.call('DEL', failures_key(id))
  redis.call('HDEL', WAITING, id)
  -- The new content may be of a configuration that others know.
  if take_back(id) then redis.call('HDEL', FOREIGN, id) end
  local dead = same_letter and forget_letter(id)
  if pending or before or dead then redis.call('SADD', MERGED, id) end
  -- The enqueue with the most patience decides how often the job is retried.
  local bound = redis.call('HGET', BOUND, id)
  if retries == '' then
    redis.call('HDEL', BOUND, id)
  elseif rival or not pending or (bound and tonumber(bound) < tonumber(retries)) then
    redis.call('HSET', BOUND, id, retries)
  end
  local present = lane_of(id)
  if present == 'backfill' and lane == 'events' then
    local score = redis.call('ZSCORE', queue(present), member(id))
    redis.call('ZREM', queue(present), member(id))
    redis.call('ZADD', queue(lane), score, member(id))
    asked = math.min(asked, tonumber(redis.call('ZSCORE', pending_key(present, id), id)) or asked)
    redis.call('ZREM', pending_key(present, id), id)
    present = lane
  end
  local target = present or lane
  if pending then
    note_pending(id, target, asked)
  else
    -- In place of what an older version of this program left of a job that it has ended.
    redis.call('ZADD', pending_key(target, id), string.format('%.0f', asked), id)
  end
  -- A running job keeps its place: its end sees the new generation and queues it again.
  if redis.call('EXISTS', lease(id)) == 0 then
    local score = redis.call('ZSCORE', queue(target), member(id))
    if not score or tonumber(score) > NOW then redis.call('ZADD', queue(target), NOW, member(id)) end
  end
  if run ~= '' then redis.call('HSET', waiters_key(id), run, generation .. ':' .. retries) end
  return target, pending
end

-- Returns the one of several runs that counts a copy as its own: the one in whose process it was made, else the last
-- that asked for it, as an earlier one may have been killed. Its name is `backfill-<host>:<pid>:<token>`.
local function run_that_counts(waiters, seen, worker)
  local newest, counts = -1, nil
  for i = 1, #waiters, 2 do
    local generation = tonumber(string.match(waiters[i + 1], '^(%d+):'))
    local process = string.match(waiters[i], '^backfill%-(.+:)%x+$')
    if generation <= seen then
      if process and string.sub(worker, 1, #process) == process then return waiters[i] end
      if generation > newest then newest, counts = generation, waiters[i] end
    end
  end
  return counts
end

local function tell_run(run, record, shared)
  local stream = prefix .. ':finished:' .. run
  if shared then
    redis.call('XADD', stream, '*', 'finished', record, 'shared', '1')
  else
    redis.call('XADD', stream, '*', 'finished', record)
  end
  redis.call('PEXPIRE', stream, FINISHED_EXPIRY)
end

-- Report the end of a job to the runs that enqueued it before the attempt began (their generation is at most `seen`).
-- With `failures`, only to those whose retries are exhausted by that many failures. worker: the one that did the job
-- well, or nil; then only one of the runs is not told that the copy is `shared`.
local function report_end(id, seen, record, failures, worker)
  local waiters = redis.call('HGETALL', waiters_key(id))
  local counts = worker and #waiters > 2 and run_that_counts(waiters, seen, worker)
  for i = 1, #waiters, 2 do
    local generation, retries = string.match(waiters[i + 1], '^(%d+):(%d*)$')
    local wanted = tonumber(generation) <= seen
    if failures then wanted = wanted and retries ~= '' and failures > tonumber(retries) end
    if wanted then
      redis.call('HDEL', waiters_key(id), waiters[i])
      tell_run(waiters[i], record, counts and counts ~= waiters[i])
    end
  end
end

-- Forget a job that is done or dead.
local function forget(id)
  redis.call('DEL', job_key(id), failures_key(id), lease(id))
  if take_back(id) then redis.call('HDEL', FOREIGN, id) end
  redis.call('HDEL', GEN, id)
  redis.call('HDEL', WAITING, id)
  redis.call('HDEL', BOUND, id)
  redis.call('HDEL', PUSHED, id)
  redis.call('SREM', MERGED, id)
  redis.call('HDEL', RUNNING, id)
  local lost = true
  for _, lane in ipairs(LANES) do
    if redis.call('ZREM', queue(lane), member(id)) == 1 then
      redis.call('ZREM', pending_key(lane, id), id)
      lost = false
    end
  end
  for _, lane in ipairs(lost and LANES or {}) do redis.call('ZREM', pending_key(lane, id), id) end
  promote(id)
end

-- Turn a job into a dead letter, with its stored form for a later retry.
local function make_dead_letter(id, seen, letter, record)
  local job = redis.call('GET', job_key(id))
  forget(id)
  redis.call('HSET', DEAD, id, letter)
  redis.call('HSET', DEAD_JOBS, id, job or '')
  redis.call('ZADD', DEAD_ORDER, redis.call('INCR', SEQ), id)
  report_end(id, seen, record)
end
