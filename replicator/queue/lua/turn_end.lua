-- End a turn. ARGV: prefix, item, the place that it was brought to or '', token or '', most items of a generation.
local item, place, token = ARGV[2], ARGV[3], ARGV[4]
-- pcall: when memory is full it can't be noted, but the turn is over all the same.
local noted, refusal = true, nil
if place ~= '' then
  noted, refusal = pcall(function()
    local all = places(item, place)
    table.insert(all, 1, {time = string.format('%.0f', NOW), place = place})
    KNOWN.keep(item, lines(all), tonumber(ARGV[5]))
  end)
end
if token ~= '' and redis.call('GET', turn_key(item)) == token then
  redis.call('DEL', turn_key(item))
  redis.pcall('PUBLISH', prefix .. ':turns', item)
end
-- What a pcall catches is a table in Redis and a text in Valkey.
return noted and 1 or redis.error_reply(type(refusal) == 'table' and refusal.err or refusal)
