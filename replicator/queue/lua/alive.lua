-- ARGV: prefix, what of ('workers' or 'processes'), most ms since a sign of life. Returns the records of the living.
local alive = {}
for _, record in ipairs(redis.call('HVALS', prefix .. ':' .. ARGV[2])) do
  if cjson.decode(record).seen >= NOW - tonumber(ARGV[3]) then alive[#alive + 1] = record end
end
return alive
