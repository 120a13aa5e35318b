-- Blob locks: one upload of a blob at a time over all processes, and the repositories that hold it. The item is a
-- blob at a registry, a place one of its repositories.

-- places with generations --
-- The places each item was uploaded to, or seen at. Put in front of the lock_ scripts.
--
--   <prefix>:known:new, :old   item -> a line "time place" for each place, the latest first; the time is 0 for a place
--                              where it was only seen: it is never believed to be there still
--   <prefix>:turn:<item>       the lock: the token of its owner, with an expiry
--   <prefix>:urgent:<item>     there while a push waits for the lock
--
-- An item that is asked for in the old generation moves to the new one.
local KNOWN = generations('known')
local MOST_PLACES = 8

local function lock_key(item) return prefix .. ':turn:' .. item end
local function urgent_key(item) return prefix .. ':urgent:' .. item end

-- Returns the places of an item except one, and the time of that one or nil.
local function places(item, except)
  local text = KNOWN.get(item) or ''
  local others, excepted = {}, nil
  for time, place in string.gmatch(text, '(%d+) ([^\n]+)') do
    if place == except then excepted = tonumber(time) else others[#others + 1] = {time = time, place = place} end
  end
  return others, excepted
end

local function lines(noted)
  local written = {}
  for i = 1, math.min(#noted, MOST_PLACES) do written[i] = noted[i].time .. ' ' .. noted[i].place end
  return table.concat(written, '\n')
end

-- lock_take with generations places --
-- Take the lock on an item to upload it to a place, unless it is there already or another process has the lock.
-- ARGV: prefix, item, place, token, lease in ms, ms for which a note is believed, most items of a generation,
-- 1 if a push asks.
-- Returns 'here' (it was uploaded to the place lately), 'taken' or 'held' (by another), then other places that have it.
local item, place, token, lease_ms, trust_ms = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local aged = redis.call('HGET', KNOWN.old, item)
if aged then KNOWN.keep(item, aged, tonumber(ARGV[7])) end
local others, uploaded = places(item, place)
local owner = redis.call('GET', lock_key(item))
local reply = {'held'}
-- The absolute value, as a note from the future was made before the clock was set back.
if uploaded and math.abs(NOW - uploaded) < trust_ms then
  reply[1] = 'here'
elseif not owner or owner == token then
  redis.call('SET', lock_key(item), token, 'PX', lease_ms)
  redis.call('DEL', urgent_key(item))
  reply[1] = 'taken'
elseif ARGV[8] == '1' then
  redis.call('SET', urgent_key(item), '1', 'PX', lease_ms)
end
-- Taken before the clock was set back: Redis keeps the time at which a key expires.
if reply[1] == 'held' and redis.call('PTTL', lock_key(item)) > lease_ms then
  redis.call('PEXPIRE', lock_key(item), lease_ms)
end
for _, noted in ipairs(others) do reply[#reply + 1] = noted.place end
return reply

-- lock_renew with generations places --
-- Prolong a lock. ARGV: prefix, item, token, lease in ms.
-- Returns 0 when another process has it, 2 while a push waits for it, else 1.
if redis.call('GET', lock_key(ARGV[2])) ~= ARGV[3] then return 0 end
redis.call('PEXPIRE', lock_key(ARGV[2]), ARGV[4])
return 1 + redis.call('EXISTS', urgent_key(ARGV[2]))

-- lock_release with generations places --
-- Release a lock. ARGV: prefix, item, the place it was uploaded to or '', token or '', most items of a generation.
local item, place, token = ARGV[2], ARGV[3], ARGV[4]
-- pcall: when memory is full the place can't be noted, but the lock must still be released.
local noted, refusal = true, nil
if place ~= '' then
  noted, refusal = pcall(function()
    local all = places(item, place)
    table.insert(all, 1, {time = string.format('%.0f', NOW), place = place})
    KNOWN.keep(item, lines(all), tonumber(ARGV[5]))
  end)
end
if token ~= '' and redis.call('GET', lock_key(item)) == token then
  redis.call('DEL', lock_key(item))
  redis.pcall('PUBLISH', prefix .. ':turns', item)
end
-- What a pcall catches is a table in Redis and a text in Valkey.
return noted and 1 or redis.error_reply(type(refusal) == 'table' and refusal.err or refusal)

-- lock_forget with generations places --
-- Forget that an item is at a place. ARGV: prefix, item, place.
local item = ARGV[2]
local others, noted = places(item, ARGV[3])
if not noted then return 0 end
for _, generation in ipairs({KNOWN.new, KNOWN.old}) do
  if redis.call('HEXISTS', generation, item) == 1 then
    if #others == 0 then
      redis.call('HDEL', generation, item)
    else
      redis.call('HSET', generation, item, lines(others))
    end
  end
end
return 1

-- lock_share with generations places --
-- Note a place where items were seen, behind those they were uploaded to, as far as there is room.
-- ARGV: prefix, place, most items of a generation, then items.
local place, limit = ARGV[2], tonumber(ARGV[3])
for i = 4, #ARGV do
  local others, noted = places(ARGV[i], place)
  if not noted and #others < MOST_PLACES then
    others[#others + 1] = {time = '0', place = place}
    KNOWN.keep(ARGV[i], lines(others), limit)
  end
end
return 1
