-- Prolong leases. ARGV: prefix, lease in ms, then for each: id, token, running record or '' to leave it.
-- Returns the tokens of leases that are lost.
local lease_ms, lost = tonumber(ARGV[2]), {}
allow_writes()
for i = 3, #ARGV, 3 do
  local id, token, record = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if holds(id, token) then renew(id, token, lease_ms, record) else lost[#lost + 1] = token end
end
return lost
