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
