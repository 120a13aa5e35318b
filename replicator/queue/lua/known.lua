-- What is known of items: the places each was brought to. Put in front of the turn_ scripts, after generations.lua.
--
--   <prefix>:known:new, :old   item -> a line "time place" for each place, the latest first
--   <prefix>:turn:<item>       who has the turn to bring it: a token, with an expiry
--
-- What is asked for in the old generation is moved to the new.
local KNOWN = generations('known')
local MOST_PLACES = 8

local function turn_key(item) return prefix .. ':turn:' .. item end

-- Returns the places of an item except one, and the time of that one or nil.
local function places(item, except)
  local text = KNOWN.get(item) or ''
  local others, excepted = {}, nil
  for time, place in string.gmatch(text, '(%d+) ([^\n]+)') do
    if place == except then excepted = tonumber(time) else others[#others + 1] = {time = time, place = place} end
  end
  return others, excepted
end

local function lines(noted)
  local written = {}
  for i = 1, math.min(#noted, MOST_PLACES) do written[i] = noted[i].time .. ' ' .. noted[i].place end
  return table.concat(written, '\n')
end
