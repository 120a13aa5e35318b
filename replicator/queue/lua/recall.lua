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
