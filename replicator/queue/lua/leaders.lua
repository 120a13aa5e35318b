-- Leaders: the work of one process for all of an installation: the scheduled reconcile, sweeps, notices to people, events
-- to programs (outbox.lua).

-- leases --
-- One take, renew and release for every leader. Put in front of the scripts below.
--
-- A lease is a key with an expiry, <prefix>:<name>:lease. Its value is the token of its owner, or a JSON record that
-- holds the token and `since`, when it was taken.
local RECONCILE, NOTICES, SWEEP = prefix .. ':reconcile', prefix .. ':notices', prefix .. ':sweep'
local SENDING = prefix .. ':sending'

-- Returns the token that has a lease, and its record if it has one; nil when the lease is free.
local function owner(name)
  local value = redis.call('GET', name .. ':lease')
  if not value then return nil end
  if string.sub(value, 1, 1) ~= '{' then return value end
  local record = cjson.decode(value)
  return record.token, record
end

local function put(name, token, lease_ms, record)
  if record then record.token = token end
  redis.call('SET', name .. ':lease', record and cjson.encode(record) or token, 'PX', lease_ms)
end

-- Take a lease that is free or the token's own. Returns since when it is taken, or nil when another has it.
local function take(name, token, lease_ms, record)
  local current, before = owner(name)
  if current and current ~= token then
    -- It was taken before the clock was set back: Redis keeps the time at which a key expires.
    local longest = tonumber(lease_ms)
    if redis.call('PTTL', name .. ':lease') > longest then redis.call('PEXPIRE', name .. ':lease', longest) end
    return nil
  end
  local since = before and before.since or NOW
  if record then record.since = since end
  put(name, token, lease_ms, record)
  return since
end

-- Renew a lease that is the token's. Returns whether it is.
local function renew(name, token, lease_ms, record)
  local current, before = owner(name)
  if current ~= token then return false end
  if record then record.since = before.since end
  -- Work that has begun continues when memory is full; only a new lease is refused.
  allow_writes()
  put(name, token, lease_ms, record)
  return true
end

-- Release a lease that is the token's. Returns whether it was.
local function release(name, token)
  if owner(name) ~= token then return false end
  redis.call('DEL', name .. ':lease')
  return true
end

-- requests --
-- How many reconciles somebody has asked for, in a field of :reconcile; `taken` are those that had been asked for when the
-- last one began, `served` when the last one began that has ended. Older versions don't know these fields.
local function requests(name) return tonumber(redis.call('HGET', RECONCILE, name or 'requests') or 0) end

-- reconcile_take with leases requests --
-- Begin a reconcile, if no process runs one, and none has ended since the caller looked.
-- ARGV: prefix, token, lease in ms, record (JSON), when the last one that ended began as the caller knows it, or ''.
-- Returns when it began, or 0 when it may not. Asked again with the same token it gives the same answer.
if (redis.call('HGET', RECONCILE, 'started') or '') ~= ARGV[5] then return 0 end
local since = take(RECONCILE, ARGV[2], ARGV[3], cjson.decode(ARGV[4]))
if since and requests() > requests('taken') then redis.call('HSET', RECONCILE, 'taken', requests()) end
return since or 0

-- reconcile_renew with leases --
-- Renew the lease, and publish the progress. ARGV: prefix, token, lease in ms, record (JSON). Returns 0 when it is lost.
return renew(RECONCILE, ARGV[2], ARGV[3], cjson.decode(ARGV[4])) and 1 or 0

-- reconcile_rules --
-- The rules of reconciles that came to their end, newest first, as digest:milliseconds. Older versions don't know this field.
local MOST_RULES = 16

local function note_rules(digest)
  local kept = {digest .. ':' .. string.format('%.0f', NOW)}
  for known in string.gmatch(redis.call('HGET', RECONCILE, 'rules') or '', '%S+') do
    if #kept < MOST_RULES and string.match(known, '^[^:]*') ~= digest then kept[#kept + 1] = known end
  end
  redis.call('HSET', RECONCILE, 'rules', table.concat(kept, ' '))
end

-- reconcile_release with outbox chronicle leases reconcile_rules requests --
-- End a reconcile. ARGV: prefix, token, when it began, result (JSON), or '' when it was not completed, digest of its
-- rules or ''.
-- Returns the result with its times, or '' when there is none or the lease is lost.
if not release(RECONCILE, ARGV[2]) then
  -- It may be a repetition, because the first answer was lost.
  return redis.call('HGET', RECONCILE, 'started') == ARGV[3] and redis.call('HGET', RECONCILE, 'result') or ''
end
if ARGV[4] == '' then return '' end
local result = cjson.decode(ARGV[4])
result.started, result.ended = tonumber(ARGV[3]), NOW
local text = cjson.encode(result)
redis.call('HSET', RECONCILE, 'started', ARGV[3], 'result', text)
if requests('taken') > requests('served') then redis.call('HSET', RECONCILE, 'served', requests('taken')) end
if result.error == cjson.null then
  -- Its rules still count as compared: failed lists are retried by a separate timetable.
  if ARGV[5] ~= '' then note_rules(ARGV[5]) end
  if result.failed + (result.unlisted or 0) + (result.held or 0) == 0 then
    redis.call('HSET', RECONCILE, 'succeeded', string.format('%.0f', NOW))
  end
end
note_first(history('reconciles'), text, HISTORY_RECONCILES)
post('reconcile.finished', text)
return text

-- reconcile_show with leases requests --
-- ARGV: prefix. Returns: now, the result of the last reconcile that ended or '', the record of the one that runs or '',
-- the rules of those that came to their end or '', whether one is requested, then times or '': when the last one that
-- ended began, when the last one ended that compared everything, when the one began whose replacements are approved.
local lease = redis.call('GET', RECONCILE .. ':lease')
local last = redis.call('HMGET', RECONCILE, 'result', 'rules', 'started', 'succeeded', 'approved')
local requested = requests() > requests('served') and 1 or 0
return {NOW, last[1] or '', lease or '', last[2] or '', requested, last[3] or '', last[4] or '', last[5] or ''}

-- reconcile_request with leases requests --
-- Ask for a reconcile that begins after this moment. ARGV: prefix.
-- Returns whether it was not asked for already, and the record of the one that runs or ''.
local running = redis.call('GET', RECONCILE .. ':lease')
-- A running reconcile may have compared these images already.
local is_new = requests() <= requests(running and 'taken' or 'served')
if is_new then redis.call('HINCRBY', RECONCILE, 'requests', 1) end
return {is_new and 1 or 0, running or ''}

-- reconcile_approve with leases --
-- Approve the replacements of the last reconcile. ARGV: prefix, when it began. Returns 0 when another has ended since.
if redis.call('HGET', RECONCILE, 'started') ~= ARGV[2] then return 0 end
redis.call('HSET', RECONCILE, 'approved', ARGV[2])
return 1

-- notices_take with leases --
-- Publish a complaint, and take or renew the leadership. ARGV: prefix, token, lease in ms, host, complaint or ''.
-- Returns: whether it leads, now, what was sent (JSON) or '', then the complaints of all processes (JSON).
local COMPLAINTS = NOTICES .. ':complaints'
if ARGV[5] == '' then
  redis.call('HDEL', COMPLAINTS, ARGV[2])
else
  local known = redis.call('HGET', COMPLAINTS, ARGV[2])
  local before = known and cjson.decode(known)
  local since = before and before.text == ARGV[5] and before.since or NOW
  local complaint = {host = ARGV[4], text = ARGV[5], since = since, ['until'] = NOW + ARGV[3]}
  redis.call('HSET', COMPLAINTS, ARGV[2], cjson.encode(complaint))
end
if not take(NOTICES, ARGV[2], ARGV[3]) then return {0} end
local complaints = {}
local all = redis.call('HGETALL', COMPLAINTS)
for i = 1, #all, 2 do
  local ends = cjson.decode(all[i + 1])['until']
  if ends < NOW or ends > NOW + ARGV[3] then
    redis.call('HDEL', COMPLAINTS, all[i])
  else
    complaints[#complaints + 1] = all[i + 1]
  end
end
return {1, NOW, redis.call('GET', NOTICES) or '', unpack(complaints)}

-- notices_keep with leases --
-- Store the sent messages. ARGV: prefix, token, the sent messages (JSON). Returns whether the token still leads; if not,
-- nothing is stored.
if owner(NOTICES) ~= ARGV[2] then return 0 end
redis.call('SET', NOTICES, ARGV[3])
return 1

-- notices_release with leases --
-- Release the leadership, and withdraw the complaint. ARGV: prefix, token.
release(NOTICES, ARGV[2])
return redis.call('HDEL', NOTICES .. ':complaints', ARGV[2])

-- lost_note --
-- Note the images that a backfill or reconcile found missing at their destination although they had been in place.
-- ARGV: prefix, how many, the first of them (a JSON list).
local lost = {at = NOW, images = tonumber(ARGV[2]), examples = cjson.decode(ARGV[3])}
redis.call('SET', prefix .. ':lost', cjson.encode(lost), 'PX', 30 * 86400000)
return 1

-- lost_show --
-- ARGV: prefix. Returns what was noted last (JSON), or ''.
return redis.call('GET', prefix .. ':lost') or ''

-- sweep_take with leases --
-- Take or renew the leadership of sweeps. ARGV: prefix, token, lease in ms.
-- Returns: whether it leads, now, and the name and the record (JSON) of each project.
if not take(SWEEP, ARGV[2], ARGV[3]) then return {0} end
return {1, NOW, redis.call('HGETALL', SWEEP .. ':projects')}

-- sweep_keep with leases --
-- Store how far projects were swept. ARGV: prefix, token, lease in ms, copies queued, the repository that they are of or
-- '', then names and records (JSON). Returns 0 when the leadership is lost; nothing is stored then.
local MOST_LOST = 20
if not renew(SWEEP, ARGV[2], ARGV[3]) then return 0 end
for i = 6, #ARGV, 2 do
  redis.call('HSET', SWEEP .. ':projects', ARGV[i], ARGV[i + 1])
end
if tonumber(ARGV[4]) > 0 then
  redis.call('HINCRBY', SWEEP, 'replaced', ARGV[4])
  redis.call('LPUSH', SWEEP .. ':lost', string.format('%.0f ', NOW) .. ARGV[4] .. ' ' .. ARGV[5])
  redis.call('LTRIM', SWEEP .. ':lost', 0, MOST_LOST - 1)
end
return 1

-- sweep_end with leases --
-- Note that a sweep has ended. ARGV: prefix, token, its problem or '', which Harbors send webhooks (JSON), for how many
-- milliseconds to keep that. Returns whether the token leads.
if owner(SWEEP) ~= ARGV[2] then return 0 end
redis.call('HSET', SWEEP, 'ended', string.format('%.0f', NOW), 'problem', ARGV[3])
redis.call('SET', SWEEP .. ':webhooks', ARGV[4], 'PX', ARGV[5])
return 1

-- sweep_release with leases --
-- Release the leadership of sweeps. ARGV: prefix, token.
return release(SWEEP, ARGV[2]) and 1 or 0

-- sweep_show with leases --
-- ARGV: prefix. Returns: when the last sweep ended or '', copies queued by all of them or '', its problem or '', which
-- Harbors send webhooks (JSON) or '', and "<ms> <copies> <repository>" of the last that were queued, the newest first.
local known = redis.call('HMGET', SWEEP, 'ended', 'replaced', 'problem')
return {
  known[1] or '', known[2] or '', known[3] or '', redis.call('GET', SWEEP .. ':webhooks') or '',
  redis.call('LRANGE', SWEEP .. ':lost', 0, -1),
}
