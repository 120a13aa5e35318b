-- Repair what a loss inside Redis left behind (an eviction, a file restored in part): a pending job that stands in no
-- queue goes back into one; one whose content is gone becomes a dead letter.
-- ARGV: prefix, message for those, then ids. Returns the ids that were put right.
local mended = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  if redis.call('HEXISTS', GEN, id) == 1 and redis.call('EXISTS', lease(id)) == 0 then
    if redis.call('EXISTS', job_key(id)) == 0 then
      local record = {id = id, outcome = cjson.null, error = ARGV[2], error_class = 'permanent', tries = 0,
        seconds = 0, retrying = false}
      local letter = {id = id, lane = lane_of(id) or 'events', error_class = 'permanent', message = ARGV[2],
        tries = 0, first = NOW, last = NOW, payload = cjson.null}
      bury(id, tonumber(redis.call('HGET', GEN, id)), cjson.encode(letter), cjson.encode(record))
      mended[#mended + 1] = id
    elseif not lane_of(id) then
      redis.call('ZADD', queue('events'), NOW, member(id))
      -- Of what was lost nobody knows whether it told of a merge.
      redis.call('SADD', MERGED, id)
      wake('events')
      mended[#mended + 1] = id
    end
  end
end
return mended
