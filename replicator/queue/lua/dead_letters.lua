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

-- dead_letter_walk --
-- Give the dead letters in the order of their death. ARGV: prefix, a mark, how many of those with this mark to pass over,
-- how many to give. Returns: how many there are in all, how many were looked at, mark and number to go on with, records.
local first, passed, most = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local page = redis.call('ZRANGEBYSCORE', DEAD_ORDER, ARGV[2], '+inf', 'WITHSCORES', 'LIMIT', passed, most)
local records, mark, last = {}, ARGV[2], first
for i = 1, #page, 2 do
  local score = tonumber(page[i + 1])
  if score == last then passed = passed + 1 else passed = 1 end
  mark, last = page[i + 1], score
  local record = redis.call('HGET', DEAD, page[i])
  if record then records[#records + 1] = record end
end
return {redis.call('HLEN', DEAD), #page / 2, mark, passed, unpack(records)}

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

-- forgotten --
-- Put in front of the scripts that forget dead letters.

-- Returns whether there was such a dead letter.
local function forget_letter(id)
  local known = redis.call('HDEL', DEAD, id) == 1
  local look = string.match(redis.call('HGET', UNANSWERED, id) or '', '^%d+ (%d+) ')
  if look and NOW >= tonumber(look) then redis.call('HDEL', UNANSWERED, id) end
  redis.call('HDEL', DEAD_JOBS, id)
  redis.call('ZREM', DEAD_ORDER, id)
  return known
end

-- dead_letter_drop with forgotten --
-- Forget dead letters. ARGV: prefix, then ids. Returns the ids that were forgotten.
local dropped = {}
for i = 2, #ARGV do
  if forget_letter(ARGV[i]) then dropped[#dropped + 1] = ARGV[i] end
end
return dropped

-- dead_letter_marks --
-- ARGV: prefix, then ids. Returns id, mark, record (JSON), ... of those that are dead letters.
local found = {}
for i = 2, #ARGV do
  local mark, record = redis.call('ZSCORE', DEAD_ORDER, ARGV[i]), redis.call('HGET', DEAD, ARGV[i])
  if mark and record then
    for _, part in ipairs({ARGV[i], mark, record}) do found[#found + 1] = part end
  end
end
return found

-- dead_letter_sources --
-- Returns the sources of dead letters, the oldest first.
-- ARGV: prefix, mark behind which they begin, how many.
-- Returns for each: id, mark, source; '' for the source of what is no image.
local found = {}
local marks = redis.call('ZRANGEBYSCORE', DEAD_ORDER, '(' .. ARGV[2], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[3])
for i = 1, #marks, 2 do
  local record = redis.call('HGET', DEAD, marks[i])
  local payload = record and cjson.decode(record).payload
  local source = type(payload) == 'table' and not payload.signature and payload.source
  for _, part in ipairs({marks[i], marks[i + 1], type(source) == 'string' and source or ''}) do
    found[#found + 1] = part
  end
end
return found

-- dead_letter_end with chronicle forgotten --
-- Forget dead letters whose cause is over, and note it in the history; one that was made since has another mark, and
-- stays. ARGV: prefix, why, then pairs of an id and its mark. Returns the ids that were forgotten.
local ended = {}
for i = 3, #ARGV, 2 do
  local id = ARGV[i]
  local record = redis.call('ZSCORE', DEAD_ORDER, id) == ARGV[i + 1] and redis.call('HGET', DEAD, id)
  if record then
    local letter = cjson.decode(record)
    local payload = type(letter.payload) == 'table' and letter.payload or {}
    local function word(text) return type(text) == 'string' and string.sub(text, 1, 600) or '' end
    local entry = {id = id, lane = letter.lane, result = 'ended', source = word(payload.source),
      rule = word(payload.rule), note = ARGV[2], error_class = cjson.null, bytes = 0, seconds = 0, lag = cjson.null,
      tries = letter.tries}
    note_ended(letter.lane, cjson.encode(entry))
    forget_letter(id)
    ended[#ended + 1] = id
  end
end
return ended
