-- Tell which destinations were lately seen to hold what is wanted.
-- ARGV: prefix, ms that count as lately, then pairs: destination, wanted. Returns a text: 1 or 0 for each.
local within, reply = tonumber(ARGV[2]), {}
for i = 3, #ARGV, 2 do
  local time, held = last_seen(ARGV[i])
  local lately = time and time <= NOW and NOW - time < within
  reply[#reply + 1] = lately and held ~= '' and held == ARGV[i + 1] and '1' or '0'
end
return table.concat(reply)
