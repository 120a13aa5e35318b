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
