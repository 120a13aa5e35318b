-- A part of the dead letters. ARGV: prefix, cursor ('0' for the first part), about how many.
-- Returns: the cursor of the next part or '0', how many there are in all, the records of this part.
local part = redis.call('HSCAN', DEAD, ARGV[2], 'COUNT', ARGV[3])
local records = {}
for i = 2, #part[2], 2 do records[#records + 1] = part[2][i] end
return {part[1], redis.call('HLEN', DEAD), records}
