-- ARGV: prefix, most ms since a sign of life. Returns the records of the workers that are alive.
local alive = {}
for _, record in ipairs(redis.call('HVALS', prefix .. ':workers')) do
  if cjson.decode(record).seen >= NOW - tonumber(ARGV[2]) then alive[#alive + 1] = record end
end
return alive
