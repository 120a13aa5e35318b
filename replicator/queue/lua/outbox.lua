-- The outbox: ended copies and reconciles, for the receivers of CloudEvents. The step that ends a job or a reconcile
-- puts it here itself, so that no crash loses it.

-- outbox --
-- Put in front of the scripts that end something.
--
--   <prefix>:outbox             hash receiver -> "<ms> <types>": until when it counts, and the types of events that it
--                               wants, each with a comma before and behind it
--   <prefix>:outbox:<receiver>  stream of what it has not taken yet: `type`, `at` in ms, and `entry`, the JSON of what
--                               ended
--   <prefix>:outbox:dropped     hash receiver -> how many were dropped, as too many or for too long waited
--   <prefix>:outbox:logged      hash receiver -> how many of those are in the log
--   <prefix>:outbox:untold      hash id -> token of the attempt that was about to write the tag; until its arrival is told
local OUTBOX, OUTBOX_MOST, OUTBOX_KEPT_MS = prefix .. ':outbox', 10000, 7 * 86400000
local UNTOLD = OUTBOX .. ':untold'
local EVENT_TYPES = {copied = 'image.copied', ['up to date'] = 'image.up_to_date', ['given up'] = 'image.failed'}

local function outbox(receiver) return OUTBOX .. ':' .. receiver end

local function count_dropped(receiver, number)
  if number > 0 then redis.pcall('HINCRBY', outbox('dropped'), receiver, number) end
end

-- Put something in the outbox of each receiver that wants it. pcall: a fault here must not fail the step.
local function post(kind, entry)
  local receivers = redis.pcall('HGETALL', OUTBOX)
  for i = 1, #receivers, 2 do
    local receiver, ends, types = receivers[i], string.match(receivers[i + 1], '^(%d+) (.*)$')
    local stream = outbox(receiver)
    if not ends or tonumber(ends) < NOW then
      redis.pcall('HDEL', OUTBOX, receiver)
      redis.pcall('UNLINK', stream)
    elseif string.find(types, ',' .. kind .. ',', 1, true) then
      redis.pcall('XADD', stream, '*', 'type', kind, 'at', string.format('%.0f', NOW), 'entry', entry)
      local dropped = redis.pcall('XTRIM', stream, 'MAXLEN', OUTBOX_MOST)
      if type(dropped) == 'number' then count_dropped(receiver, dropped) end
      redis.pcall('PEXPIRE', stream, OUTBOX_KEPT_MS)
    end
  end
end

-- Note that an attempt is about to write a tag. The first counts whose arrival is not told: its writer may die before.
local function note_untold(id, token)
  if redis.call('EXISTS', OUTBOX) == 0 then return end
  redis.call('HSETNX', UNTOLD, id, token)
  redis.call('PEXPIRE', UNTOLD, OUTBOX_KEPT_MS)
end

-- Put the end of a job in the outbox. token: of the attempt that ended; entry: JSON with `result`, or ''. An attempt that
-- had nothing to do tells of the arrival that an earlier one may have brought.
local function post_end(id, token, entry)
  if entry == '' or redis.call('EXISTS', OUTBOX) == 0 then return end
  local known, ended = pcall(cjson.decode, entry)
  local kind = known and EVENT_TYPES[ended.result]
  if not kind then return end
  local writer = redis.call('HGET', UNTOLD, id)
  if kind == 'image.up_to_date' and writer and writer ~= token then kind = 'image.copied' end
  if kind ~= 'image.failed' then redis.call('HDEL', UNTOLD, id) end
  post(kind, entry)
end

-- outbox_take with outbox leases --
-- Take or renew the leadership of sending, and collect events for receivers from now on.
-- ARGV: prefix, token, lease in ms, then for each receiver: its key, and the types of events that it wants.
-- Returns whether it leads, now, and for each receiver how many were dropped and are not in the log yet.
allow_writes()
for i = 4, #ARGV, 2 do
  local ends, types = string.match(redis.call('HGET', OUTBOX, ARGV[i]) or '', '^(%d+) (.*)$')
  local most = NOW + OUTBOX_KEPT_MS
  -- Once an hour: a write may cost the disk's time. One in the future was made before the clock was set back.
  if types ~= ARGV[i + 1] or tonumber(ends) < most - 3600000 or tonumber(ends) > most then
    redis.call('HSET', OUTBOX, ARGV[i], string.format('%.0f ', most) .. ARGV[i + 1])
  end
end
if not take(SENDING, ARGV[2], ARGV[3]) then return {0, NOW} end
local reply = {1, NOW}
for i = 4, #ARGV, 2 do
  local dropped = tonumber(redis.call('HGET', outbox('dropped'), ARGV[i]) or 0)
  local logged = tonumber(redis.call('HGET', outbox('logged'), ARGV[i]) or 0)
  if dropped ~= logged then redis.call('HSET', outbox('logged'), ARGV[i], dropped) end
  reply[#reply + 1] = dropped - logged
end
return reply

-- outbox_remove with outbox leases --
-- Remove what a receiver has taken, or what is given up. ARGV: prefix, token, receiver, '1' if it is given up, then ids.
-- Returns whether the token leads; removed is in any case.
allow_writes()
local removed = redis.call('XDEL', outbox(ARGV[3]), unpack(ARGV, 5))
if ARGV[4] == '1' then count_dropped(ARGV[3], removed) end
return owner(SENDING) == ARGV[2] and 1 or 0

-- outbox_release with leases --
-- Release the leadership of sending. ARGV: prefix, token.
return release(SENDING, ARGV[2]) and 1 or 0

-- outbox_show with outbox --
-- ARGV: prefix, then receivers. Returns now, and for each: how many wait, the time of the oldest in ms or 0, how many were
-- dropped.
local shown = {NOW}
for i = 2, #ARGV do
  local first = redis.call('XRANGE', outbox(ARGV[i]), '-', '+', 'COUNT', 1)[1]
  local at = 0
  for j = 1, first and #first[2] or 0, 2 do
    if first[2][j] == 'at' then at = tonumber(first[2][j + 1]) end
  end
  local dropped = tonumber(redis.call('HGET', outbox('dropped'), ARGV[i]) or 0)
  shown[#shown + 1] = {redis.call('XLEN', outbox(ARGV[i])), at, dropped}
end
return shown
