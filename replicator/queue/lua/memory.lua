-- The memory that processes share: selections of images, observations of destinations, and how logins fare.

-- generations --
-- A memory bounded by generations: when the new one is full it becomes the old one, and what was old is dropped; of
-- some memories it is kept once more, as the oldest.
-- Put in front of the scripts that remember. They do not begin with allow_writes: what only saves requests is not worth
-- the room of a full Redis.
--
--   <prefix>:<name>:new, :old  hashes item -> text
--   <prefix>:<name>:older      likewise
local GENERATION_EXPIRY = 30 * 86400000

-- lasting: they are kept however long there is no write; three: there are three of them.
local function generations(name, lasting, three)
  local memory = {new = prefix .. ':' .. name .. ':new', old = prefix .. ':' .. name .. ':old'}
  if three then memory.older = prefix .. ':' .. name .. ':older' end

  local renewed = false

  function memory.get(item)
    return redis.call('HGET', memory.new, item) or redis.call('HGET', memory.old, item)
      or three and redis.call('HGET', memory.older, item)
  end

  function memory.keep(item, text, limit)
    -- An item that is new there may be in one of the others.
    if redis.call('HSET', memory.new, item, text) == 1 and redis.call('HDEL', memory.old, item) == 0 and three then
      redis.call('HDEL', memory.older, item)
    end
    -- Once a script, as each command is written to the append-only file.
    if not renewed and not lasting then redis.call('PEXPIRE', memory.new, GENERATION_EXPIRY) end
    renewed = true
    if redis.call('HLEN', memory.new) >= limit then
      redis.call('UNLINK', memory.older or memory.old)
      if three and redis.call('EXISTS', memory.old) == 1 then redis.call('RENAME', memory.old, memory.older) end
      redis.call('RENAME', memory.new, memory.old)
      renewed = false
    end
  end

  return memory
end

-- recall with generations --
-- Give the texts that are remembered under some names. A name found in the old generation moves to the new one.
-- ARGV: prefix, memory, most items of a generation, then names. Returns a text or nil for each.
local memory, limit = generations(ARGV[2]), tonumber(ARGV[3])
local reply = {}
for i = 4, #ARGV do
  local text = redis.call('HGET', memory.new, ARGV[i])
  if not text then
    text = redis.call('HGET', memory.old, ARGV[i])
    -- pcall: a Redis that takes no writes still answers.
    if text then pcall(memory.keep, ARGV[i], text, limit) end
  end
  reply[i - 3] = text
end
return reply

-- remember with generations --
-- Remember texts under names. ARGV: prefix, memory, most items of a generation, then pairs of a name and a text.
local memory, limit = generations(ARGV[2]), tonumber(ARGV[3])
for i = 4, #ARGV, 2 do memory.keep(ARGV[i], ARGV[i + 1], limit) end
return 1

-- observed with generations --
-- The latest observation of each destination. Put in front of the observations_ scripts and of `confirm`.
--
--   <prefix>:checks:new, :old, :older  destination -> "time wanted digest": what it was seen to hold, since when, and the
--                              digest of the source's tag then (in base64), if it is known;
--                              "time " is a void note: it was about to be written, so earlier observations are void;
--                              "time !since wanted digest" is one that keeps what it made void;
--                              repository -> "time ": earlier observations of all its tags are not trusted
local OBSERVED = generations('checks', false, true)

-- Returns the time of the latest observation of a destination, and what it held ('' for nothing certain); or nil.
local function latest(destination)
  local time, wanted = string.match(OBSERVED.get(destination) or '', '^(%d+) (.*)$')
  return tonumber(time), wanted
end

-- Void what was observed of a destination that is about to be written, and keep it in the note.
local function void_observation(destination, time, limit)
  local since, held = latest(destination)
  held = held or ''
  if held ~= '' and string.sub(held, 1, 1) ~= '!' then held = string.format('!%.0f %s', since, held) end
  OBSERVED.keep(destination, string.format('%.0f %s', time, held), limit)
end

-- observations_confirmed with generations observed --
-- Tell which destinations were lately observed to hold what is wanted.
-- ARGV: prefix, ms that count as lately, then triples: destination, wanted, repository. Returns a text: 1 or 0 for each.
local within, reply, doubted = tonumber(ARGV[2]), {}, {}
for i = 3, #ARGV, 3 do
  local time, held = latest(ARGV[i])
  local repository = ARGV[i + 2]
  doubted[repository] = doubted[repository] or latest(repository) or 0
  local lately = time and time <= NOW and NOW - time < within and time > doubted[repository]
  reply[#reply + 1] = lately and held ~= '' and string.match(held, '^%S*') == ARGV[i + 1] and '1' or '0'
end
return table.concat(reply)

-- observations_noted with generations observed --
-- Tell whether anything was lately noted of a destination: that it was seen, or about to be written.
-- ARGV: prefix, ms that count as lately, destination. Returns 1 or 0.
local time = latest(ARGV[3])
return time and NOW - time < tonumber(ARGV[2]) and 1 or 0

-- owned with generations --
-- Which source owns a destination's tag, and what was written there. Put in front of the scripts that use it. No other
-- memory pushes it out, as it says what may be replaced.
--
--   <prefix>:owned:new, :old   short form of an id -> "source written replaced", see TagRecord in memory.py
local OWNED, MOST_OWNED = generations('owned', true), 100000

local function owned_name(id) return string.sub(redis.sha1hex(id), 1, 24) end

local function get_owned(id) return OWNED.get(owned_name(id)) end

-- Remember it; an empty text changes nothing.
local function keep_owned(id, text)
  if (text or '') ~= '' then OWNED.keep(owned_name(id), text, MOST_OWNED) end
end

-- Note that the image replaced by the last write has been reported.
local function note_told(id)
  local source, written, replaced = string.match(get_owned(id) or '', '^(%S+) (%S+) (%S+)$')
  if replaced and replaced ~= '-' then keep_owned(id, source .. ' ' .. written .. ' -') end
end

-- owned_recall with generations owned --
-- ARGV: prefix, then ids. Returns what is remembered of each, or ''.
local reply = {}
for i = 2, #ARGV do reply[#reply + 1] = get_owned(ARGV[i]) or '' end
return reply

-- observations_show with generations observed --
-- ARGV: prefix, then destinations. Returns the latest observation of each, "time wanted", or ''.
local found = {}
for i = 2, #ARGV do found[i - 1] = OBSERVED.get(ARGV[i]) or '' end
return found

-- observations_void with generations observed --
-- Void what was observed of a destination, or of all tags of a repository.
-- ARGV: prefix, most items of a generation, item, or '' or the time of an observation that was disproved: then nothing
-- is done if it has been void already. Returns whether it was voided.
if ARGV[4] ~= '' and (latest(ARGV[3]) or 0) >= tonumber(ARGV[4]) then return 0 end
OBSERVED.keep(ARGV[3], string.format('%.0f ', NOW), tonumber(ARGV[2]))
return 1

-- observations_record with generations observed owned --
-- Record what destinations were observed to hold, each unless something newer is known of it; and which source owns it,
-- unless another one is known to. ARGV: prefix, most items of a generation, then for each: destination, time, wanted,
-- the destination's id or '', the source. Returns the time.
local limit = tonumber(ARGV[2])
-- A note an hour ahead was made before the clock was set back; nothing older than it is under way any more.
local stale = NOW + 3600000
for i = 3, #ARGV, 5 do
  local time, known = math.min(tonumber(ARGV[i + 1]), NOW), latest(ARGV[i])
  if not known or known < time or known > stale then
    OBSERVED.keep(ARGV[i], string.format('%.0f %s', time, ARGV[i + 2]), limit)
  end
  local id = ARGV[i + 3]
  if id ~= '' and not get_owned(id) then keep_owned(id, ARGV[i + 4] .. ' - -') end
end
return NOW

-- asked with generations --
-- Recent answers, for pairs of repositories, whether anyone may pull the image. Put in front of the public_ scripts.
--
--   <prefix>:asked:new, :old   pair -> "time answer": when it was asked last, and what came out; "asking" while it is
local ASKED = generations('asked')

-- Returns the answer that still counts, or ''. ARGV from `first` on: each answer, and the ms for which it counts.
local function counting(pair, first)
  local time, answer = string.match(ASKED.get(pair) or '', '^(%d+) (%a+)$')
  for i = first, #ARGV, 2 do
    local age = time and NOW - tonumber(time)
    -- A note an hour ahead was made before the clock was set back.
    if age and answer == ARGV[i] and age < tonumber(ARGV[i + 1]) and age > -3600000 then return answer end
  end
  return ''
end

-- public_answer with generations asked --
-- Give the answer for a pair that still counts. ARGV: prefix, pair, then answers with the ms for which they count.
return counting(ARGV[2], 3)

-- public_begin with generations asked --
-- Take the turn to ask. ARGV: prefix, most items of a generation, pair, then answers with the ms for which they count.
-- Returns '' if it is to be asked now, else the answer that still counts.
local answer = counting(ARGV[3], 4)
if answer == '' then ASKED.keep(ARGV[3], string.format('%.0f asking', NOW), tonumber(ARGV[2])) end
return answer

-- public_end with generations asked --
-- Store an answer, and keep the list of pairs that are private at the source and public at the destination.
--
--   <prefix>:public            hash pair -> JSON: source, destination, tag, since
--
-- ARGV: prefix, most items of a generation, pair, answer, most pairs of the list, a record without `since` to list it,
-- '' to take it off the list, or '-' to leave the list as it is. Returns 1 if it is new on the list.
local key = prefix .. ':public'
ASKED.keep(ARGV[3], string.format('%.0f %s', NOW, ARGV[4]), tonumber(ARGV[2]))
if ARGV[6] == '' then redis.call('HDEL', key, ARGV[3]) end
if ARGV[6] == '' or ARGV[6] == '-' then return 0 end
if redis.call('HEXISTS', key, ARGV[3]) == 1 or redis.call('HLEN', key) >= tonumber(ARGV[5]) then return 0 end
local record = cjson.decode(ARGV[6])
record.since = NOW
redis.call('HSET', key, ARGV[3], cjson.encode(record))
return 1

-- public_show --
-- List the pairs that are private at the source and public at the destination. ARGV: prefix. Returns their records.
return redis.call('HVALS', prefix .. ':public')

-- login_swap with waits --
-- Replace the record of a login, if it is still the one that was read; see registry/ladder.py.
--
--   <prefix>:<login>           JSON: when it worked, its refusals; for 30 days after the last change
--
-- ARGV: prefix, login, record that was read or '', new record or '' to read only, key whose jobs go on or ''.
-- Returns the time, the record that is there now or '', and 1 if it was replaced.
local key = prefix .. ':' .. ARGV[2]
local current = redis.call('GET', key) or ''
local replaced = ARGV[4] ~= '' and current == ARGV[3]
if replaced then
  allow_writes()
  redis.call('SET', key, ARGV[4], 'PX', 30 * 86400000)
  current = ARGV[4]
  local waiting = ARGV[5] ~= '' and get_wait(ARGV[5])
  if waiting and not waiting.back then end_wait(ARGV[5], waiting) end
end
return {NOW, current, replaced and 1 or 0}

-- make_room --
-- Drop all that only saves requests, because the memory is full. ARGV: prefix. Returns how many keys there were.
local dropped = 0
for _, name in ipairs({'known', 'forms', 'surveys', 'refused', 'asked', 'checks'}) do
  -- DEL and not UNLINK: the caller needs the room at once.
  for _, generation in ipairs({':new', ':old', ':older'}) do
    dropped = dropped + redis.call('DEL', prefix .. ':' .. name .. generation)
  end
end
return dropped

-- look_back --
-- Notice that Redis was put back to an older state: the number of enqueues, which only rises, is lower than known. Then
-- a reconcile is due at once, and what was observed at destinations is forgotten: both may be older than what happened.
-- ARGV: prefix, the number that is known, '1' when the data is known to be a copy. Returns the number, 1 if it is older.
local number, known = tonumber(redis.call('GET', SEQ) or 0), tonumber(ARGV[2])
if number >= known and not (ARGV[3] == '1' and number > 0) then return {number, 0} end
allow_writes()
-- No number is given twice; and the other processes, which know it too, see that this was noticed.
number = math.max(number, known)
redis.call('SET', SEQ, string.format('%.0f', number))
redis.call('HDEL', prefix .. ':reconcile', 'started', 'rules')
redis.call('DEL', prefix .. ':checks:new', prefix .. ':checks:old', prefix .. ':checks:older')
return {number, 1}
