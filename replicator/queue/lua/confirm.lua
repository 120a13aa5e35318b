-- Prolong a lease right before its job's destination is written, and make void what was seen there until now.
-- ARGV: prefix, lease in ms, id, token, running record or '' to leave it, the destination's name in checks,
-- most items of a generation. Returns the tokens of leases that are lost: this one or none.
local lease_ms, id, token = tonumber(ARGV[2]), ARGV[3], ARGV[4]
if not holds(id, token) then return {token} end
-- Also when memory is full: what is put here is smaller than the job that it helps to get done.
allow_writes()
-- First: if it can't be put, the lease is not confirmed, and nothing is written.
CHECKS.keep(ARGV[6], string.format('%.0f ', NOW), tonumber(ARGV[7]))
renew(id, token, lease_ms, ARGV[5])
return {}
