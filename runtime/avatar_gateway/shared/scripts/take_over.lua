-- KEYS: leases, holders, counts, tenants
-- ARGV: tenant, lease id, owner, service, ttl ms
-- Makes a connection the owner of a lease, which is added if it is missing. No limit refuses that.
local keys, now, ttl = keys_of(1), now_ms(), tonumber(ARGV[5])
sweep(keys, now)
put(keys, ARGV[2], ARGV[3], ARGV[4], now + ttl)
keep(keys, ARGV[1], now, ttl)
return 1
