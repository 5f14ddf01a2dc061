-- KEYS: leases, holders, counts, tenants
-- ARGV: tenant, ttl ms, then for each lease: lease id, owner, service
-- Extends leases of one tenant, and adds those that are missing or that nobody owns.
local keys, now, ttl = keys_of(1), now_ms(), tonumber(ARGV[2])
sweep(keys, now)
for at = 3, #ARGV, 3 do
  local owner = held(keys, ARGV[at])
  if not owner or owner == '' or owner == ARGV[at + 1] then
    put(keys, ARGV[at], ARGV[at + 1], ARGV[at + 2], now + ttl)
  end
end
keep(keys, ARGV[1], now, ttl)
return 1
