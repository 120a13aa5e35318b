-- Remember texts under names. ARGV: prefix, memory, most items of a generation, then pairs of a name and a text.
local memory, limit = generations(ARGV[2]), tonumber(ARGV[3])
for i = 4, #ARGV, 2 do memory.keep(ARGV[i], ARGV[i + 1], limit) end
return 1
