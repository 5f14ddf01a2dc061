-- KEYS: leases, holders, counts, tenants
-- ARGV: lease id, owner, session id
-- Names a lease by its session. Returns 1, or 0 if another lease has that name.
local keys, now = keys_of(1), now_ms()
sweep(keys, now)
local owner, service = held(keys, ARGV[1])
if not service and held(keys, ARGV[3]) == ARGV[2] then
  return 1 -- a repeated request
end
if owner ~= ARGV[2] or not service or held(keys, ARGV[3]) then
  return 0
end
local ends = redis.call('ZSCORE', keys.leases, ARGV[1])
redis.call('ZREM', keys.leases, ARGV[1])
redis.call('HDEL', keys.holders, ARGV[1])
redis.call('ZADD', keys.leases, ends, ARGV[3])
redis.call('HSET', keys.holders, ARGV[3], owner .. ' ' .. service)
return 1
