-- Note that destinations are about to be written: what was seen of them until now is void, whenever it comes in.
-- ARGV: prefix, most items of a generation, then destinations. Returns the time.
local limit = tonumber(ARGV[2])
for i = 3, #ARGV do
  -- When memory is full, what was seen is dropped, and nothing that was seen is taken in its place.
  if not pcall(CHECKS.keep, ARGV[i], string.format('%.0f ', NOW), limit) then CHECKS.drop(ARGV[i]) end
end
return NOW
