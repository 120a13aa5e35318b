-- Note what destinations were seen to hold, each unless something newer is known of it.
-- ARGV: prefix, most items of a generation, then triples: destination, time, wanted. Returns the time.
local limit = tonumber(ARGV[2])
-- A note from so far in the future was made before the clock was set back, and nothing older is under way any more.
local void = NOW + 3600000
for i = 3, #ARGV, 3 do
  local time, known = math.min(tonumber(ARGV[i + 1]), NOW), last_seen(ARGV[i])
  if not known or known < time or known > void then
    CHECKS.keep(ARGV[i], string.format('%.0f %s', time, ARGV[i + 2]), limit)
  end
end
return NOW
