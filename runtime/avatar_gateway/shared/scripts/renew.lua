-- KEYS: leases, holders, counts, tenants
-- ARGV: tenant, ttl ms, then for each lease: lease id, owner, service
-- Extends leases of one tenant, and adds those that had expired. Returns the owners that lost theirs.
local keys, now, ttl, lost = keys_of(1), now_ms(), tonumber(ARGV[2]), {}
sweep(keys, now)
for at = 3, #ARGV, 3 do
  local owner = held(keys, ARGV[at])
  if owner and owner ~= ARGV[at + 1] then
    lost[#lost + 1] = ARGV[at + 1]
  else
    put(keys, ARGV[at], ARGV[at + 1], ARGV[at + 2], now + ttl)
  end
end
keep(keys, ARGV[1], now, ttl)
return lost
