-- What is known of items: the places each was brought to. Put in front of the turn_ scripts, after the prelude.
--
--   <prefix>:known:new, :old   hashes item -> a line "time place" for each place, the latest first
--   <prefix>:turn:<item>       who has the turn to bring it: a token, with an expiry
--
-- Memory is bounded by two generations: the new one becomes the old one when it is full, and what is asked for in the
-- old one is moved to the new. Nothing here begins with allow_writes: a full Redis has no room for what only spares
-- work.
local NEW, OLD = prefix .. ':known:new', prefix .. ':known:old'
local KNOWN_EXPIRY = 30 * 86400000
local MOST_PLACES = 8

local function turn_key(item) return prefix .. ':turn:' .. item end

local function keep(item, text, limit)
  redis.call('HSET', NEW, item, text)
  redis.call('HDEL', OLD, item)
  redis.call('PEXPIRE', NEW, KNOWN_EXPIRY)
  if redis.call('HLEN', NEW) >= limit then
    redis.call('UNLINK', OLD)
    redis.call('RENAME', NEW, OLD)
  end
end

-- Returns the places of an item except one, and the time of that one or nil.
local function places(item, except)
  local text = redis.call('HGET', NEW, item) or redis.call('HGET', OLD, item) or ''
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
