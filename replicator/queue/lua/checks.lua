-- What was last seen of destinations. Put in front of the check_ scripts and of confirm.lua, after
-- generations.lua.
--
--   <prefix>:checks:new, :old  destination -> "time wanted": what it was seen to hold, and when that was so;
--                              "time " says that it was about to be written, so what was seen earlier is void
local CHECKS = generations('checks')

-- Returns the time of what is known of a destination, and what it holds ('' for nothing certain); or nil.
local function last_seen(destination)
  local time, wanted = string.match(CHECKS.get(destination) or '', '^(%d+) (.*)$')
  return tonumber(time), wanted
end
