-- A memory that is bounded by two generations: the new one becomes the old one when it is full. Put in front of the
-- scripts that remember, after the prelude. What only spares work does not begin with allow_writes: a full Redis has no
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
