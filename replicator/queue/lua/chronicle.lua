-- What ended lately, for a person to look at. Put in front of the scripts that note it, after the prelude. All of it is
-- bounded, and nothing of it fails what it is noted for: pcall.
--
--   <prefix>:history:<lane>       list of "<ms> <JSON>", one for each job that ended, the newest first
--   <prefix>:history:reconciles   list of results as in <prefix>:reconcile, the newest first
--   <prefix>:lag                  hash quarter of an hour since 1970 -> "<number> <sum> <longest>", in ms
local HISTORY_JOBS, HISTORY_RECONCILES = 1000, 30
local LAG_SPAN, LAG_SPANS = 900000, 192
local LAG = prefix .. ':lag'

local function history(name) return prefix .. ':history:' .. name end

local function note_first(key, text, most)
  redis.pcall('LPUSH', key, text)
  redis.pcall('LTRIM', key, 0, most - 1)
end

local function note_lag(lag)
  local span = math.floor(NOW / LAG_SPAN)
  local known = redis.pcall('HGET', LAG, span)
  if type(known) == 'table' then return end
  local number, sum, longest = string.match(known or '', '^(%d+) (%d+) (%d+)$')
  number, sum, longest = tonumber(number or 0) + 1, tonumber(sum or 0) + lag, math.max(tonumber(longest or 0), lag)
  redis.pcall('HSET', LAG, span, string.format('%.0f %.0f %.0f', number, sum, longest))
  if known then return end
  for _, other in ipairs(redis.call('HKEYS', LAG)) do
    -- What lies in the future was noted before the clock was set back.
    if tonumber(other) <= span - LAG_SPANS or tonumber(other) > span then redis.call('HDEL', LAG, other) end
  end
end

-- Note a job that ended. entry: JSON, or '' or nil for one that nobody wants to see; lag: in ms, or '' or nil without one.
local function note_ended(lane, entry, lag)
  if (entry or '') ~= '' then note_first(history(lane), string.format('%.0f ', NOW) .. entry, HISTORY_JOBS) end
  if (lag or '') ~= '' then note_lag(tonumber(lag)) end
end
