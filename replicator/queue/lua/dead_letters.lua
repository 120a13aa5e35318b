-- Dead letters: listed, retried, dropped.

-- dead_letters_since --
-- Give the dead letters that are newer than a mark. ARGV: prefix, mark (0 for all), how many of them.
-- Returns: how many dead letters there are, how many of them are newer, the mark of the newest, then records (JSON) of
-- the first newer ones.
local newer = redis.call('ZRANGEBYSCORE', DEAD_ORDER, '(' .. ARGV[2], '+inf', 'LIMIT', 0, ARGV[3])
local records = {}
for _, id in ipairs(newer) do
  local record = redis.call('HGET', DEAD, id)
  -- An older version of this program drops a dead letter and leaves its mark.
  if record then records[#records + 1] = record else redis.call('ZREM', DEAD_ORDER, id) end
end
local last = redis.call('ZRANGE', DEAD_ORDER, -1, -1, 'WITHSCORES')
local mark = math.max(tonumber(ARGV[2]), tonumber(last[2] or 0))
return {redis.call('HLEN', DEAD), redis.call('ZCOUNT', DEAD_ORDER, '(' .. ARGV[2], '+inf'), mark, unpack(records)}

-- dead_letter_page --
-- ARGV: prefix, cursor ('0' for the first page), about how many.
-- Returns: the cursor of the next page or '0', how many there are in all, the records of this page.
local page = redis.call('HSCAN', DEAD, ARGV[2], 'COUNT', ARGV[3])
local records = {}
for i = 2, #page[2], 2 do records[#records + 1] = page[2][i] end
return {page[1], redis.call('HLEN', DEAD), records}

-- dead_letter_retry --
-- Queue dead letters again. ARGV: prefix, then ids. Returns the ids that were queued.
local queued = {}
for i = 2, #ARGV do
  local letter, job = redis.call('HGET', DEAD, ARGV[i]), redis.call('HGET', DEAD_JOBS, ARGV[i])
  if letter and job and job ~= '' then
    wake(enqueue(ARGV[i], job, cjson.decode(letter).lane, '', '', ''))
    queued[#queued + 1] = ARGV[i]
  end
end
-- Repeated, it finds nothing to do; but WAIT counts only from a write of its own connection on.
redis.call('SET', prefix .. ':ping', NOW, 'PX', 60000)
return queued

-- dead_letter_drop --
-- Forget dead letters. ARGV: prefix, then ids. Returns the ids that were forgotten.
local dropped = {}
for i = 2, #ARGV do
  if redis.call('HDEL', DEAD, ARGV[i]) == 1 then dropped[#dropped + 1] = ARGV[i] end
  local look = string.match(redis.call('HGET', UNANSWERED, ARGV[i]) or '', '^%d+ (%d+) ')
  if look and NOW >= tonumber(look) then redis.call('HDEL', UNANSWERED, ARGV[i]) end
  redis.call('HDEL', DEAD_JOBS, ARGV[i])
  redis.call('ZREM', DEAD_ORDER, ARGV[i])
end
return dropped
