-- KEYS: leases, holders, counts, tenants
-- ARGV: tenant, ttl ms, then for each lease: lease id, owner, 1 to suspend it or 0 to release it
-- Ends the ownership of leases of one tenant; those with another owner by now are left alone.
local keys, now, ttl = keys_of(1), now_ms(), tonumber(ARGV[2])
sweep(keys, now)
for at = 3, #ARGV, 3 do
  local id = ARGV[at]
  local owner, service = held(keys, id)
  if owner == ARGV[at + 1] then
    if ARGV[at + 2] == '1' then
      put(keys, id, '', service, now + ttl)
    else
      remove(keys, id)
    end
  end
end
keep(keys, ARGV[1], now, ttl)
return 1
