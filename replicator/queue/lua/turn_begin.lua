-- Take the turn to bring an item to a place, if there is need and nobody has it.
-- ARGV: prefix, item, place, token, lease in ms, ms for which a note is believed, most items of a generation.
-- Returns 'here' (it was brought to the place lately), 'taken' or 'held' (by another), then other places that have it.
local item, place, token, lease_ms, trust_ms = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local aged = redis.call('HGET', KNOWN.old, item)
if aged then KNOWN.keep(item, aged, tonumber(ARGV[7])) end
local others, brought = places(item, place)
local holder = redis.call('GET', turn_key(item))
local reply = {'held'}
-- A note from the future was made before the clock was set back.
if brought and math.abs(NOW - brought) < trust_ms then
  reply[1] = 'here'
elseif not holder or holder == token then
  redis.call('SET', turn_key(item), token, 'PX', lease_ms)
  reply[1] = 'taken'
end
for _, noted in ipairs(others) do reply[#reply + 1] = noted.place end
return reply
