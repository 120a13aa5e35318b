-- What processes remember for each other: selections of images, and what destinations held.

-- generations --
-- A memory that is bounded by two generations: the new one becomes the old one when it is full. Put in front of the
-- scripts that remember. What only spares work does not begin with allow_writes: a full Redis has no
-- room for it.
--
--   <prefix>:<name>:new, :old  hashes item -> text
local GENERATION_EXPIRY = 30 * 86400000

local function generations(name)
  local memory = {new = prefix .. ':' .. name .. ':new', old = prefix .. ':' .. name .. ':old'}

  local renewed = false

  function memory.get(item) return redis.call('HGET', memory.new, item) or redis.call('HGET', memory.old, item) end

  function memory.keep(item, text, limit)
    redis.call('HSET', memory.new, item, text)
    redis.call('HDEL', memory.old, item)
    -- Once a script: each command is written to the append-only file.
    if not renewed then redis.call('PEXPIRE', memory.new, GENERATION_EXPIRY) end
    renewed = true
    if redis.call('HLEN', memory.new) >= limit then
      redis.call('UNLINK', memory.old)
      redis.call('RENAME', memory.new, memory.old)
      renewed = false
    end
  end

  return memory
end

-- recall with generations --
-- Give what was remembered under some names. What is asked for in the old generation is moved to the new.
-- ARGV: prefix, memory, most items of a generation, then names. Returns a text or nil for each.
local memory, limit = generations(ARGV[2]), tonumber(ARGV[3])
local reply = {}
for i = 4, #ARGV do
  local text = redis.call('HGET', memory.new, ARGV[i])
  if not text then
    text = redis.call('HGET', memory.old, ARGV[i])
    -- pcall: a Redis that takes no writes still tells.
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

-- checks with generations --
-- What was last seen of destinations. Put in front of the check_ scripts and of `confirm`.
--
--   <prefix>:checks:new, :old  destination -> "time wanted": what it was seen to hold, and when that was so;
--                              "time " says that it was about to be written, so what was seen earlier is void
local CHECKS = generations('checks')

-- Returns the time of what is known of a destination, and what it holds ('' for nothing certain); or nil.
local function last_seen(destination)
  local time, wanted = string.match(CHECKS.get(destination) or '', '^(%d+) (.*)$')
  return tonumber(time), wanted
end

-- check_held with generations checks --
-- Tell which destinations were lately seen to hold what is wanted.
-- ARGV: prefix, ms that count as lately, then pairs: destination, wanted. Returns a text: 1 or 0 for each.
local within, reply = tonumber(ARGV[2]), {}
for i = 3, #ARGV, 2 do
  local time, held = last_seen(ARGV[i])
  local lately = time and time <= NOW and NOW - time < within
  reply[#reply + 1] = lately and held ~= '' and held == ARGV[i + 1] and '1' or '0'
end
return table.concat(reply)

-- check_note with generations checks --
-- Note what destinations were seen to hold, each unless something newer is known of it.
-- ARGV: prefix, most items of a generation, then triples: destination, time, wanted. Returns the time.
local limit = tonumber(ARGV[2])
-- A note from so far in the future was made before the clock was set back, and nothing older is under way any more.
local void = NOW + 3600000
for i = 3, #ARGV, 3 do
  local time, known = math.min(tonumber(ARGV[i + 1]), NOW), last_seen(ARGV[i])
  if not known or known < time or known > void then
    CHECKS.keep(ARGV[i], string.format('%.0f %s', time, ARGV[i + 2]), limit)
  end
end
return NOW
