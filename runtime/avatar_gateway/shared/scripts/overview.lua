-- KEYS: gateways, tenants, id of the data
-- ARGV: prefix of keys, id of this gateway, ttl ms of a gateway, maximum number of tenants, a new id,
--       ttl ms of the id
-- Registers the gateway. Returns the number of gateways, the id of the data of this server, then for each tenant with leases or usage:
-- name, sessions, milliseconds of this month, {service, leases, ...}.
local prefix, now = ARGV[1], now_ms()
redis.call('ZADD', KEYS[1], text(now + tonumber(ARGV[3])), ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', text(now))
shorten(KEYS[1], now)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', text(now))
redis.call('SET', KEYS[3], ARGV[5], 'NX')
redis.call('PEXPIRE', KEYS[3], ARGV[6])
local result, month = {redis.call('ZCARD', KEYS[1]), redis.call('GET', KEYS[3])}, month_of(now)
for _, tenant in ipairs(redis.call('ZREVRANGE', KEYS[2], 0, tonumber(ARGV[4]) - 1)) do
  local keys = {
    leases = prefix .. 'leases:' .. tenant,
    holders = prefix .. 'holders:' .. tenant,
    counts = prefix .. 'counts:' .. tenant,
  }
  sweep(keys, now)
  result[#result + 1] = tenant
  result[#result + 1] = redis.call('ZCARD', keys.leases)
  result[#result + 1] = tonumber(redis.call('HGET', prefix .. 'months:' .. tenant, month) or 0)
  result[#result + 1] = redis.call('HGETALL', keys.counts)
end
return result
