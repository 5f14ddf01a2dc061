-- KEYS: gateways, tenants, id of the data, callers that wait
-- ARGV: prefix of keys, id of this gateway, ttl ms of a gateway, maximum number of tenants, a new id,
--       ttl ms of the id, the callers that wait at this gateway
-- Registers the gateway. Returns the number of gateways, the id of the data of this server, the
-- callers that wait at each other gateway, then for each tenant with leases or usage: name,
-- sessions, milliseconds of this month, {service, leases, ...}.
local prefix, now = ARGV[1], now_ms()
redis.call('ZADD', KEYS[1], text(now + tonumber(ARGV[3])), ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', text(now))
shorten(KEYS[1], now)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', text(now))
redis.call('SET', KEYS[3], ARGV[5], 'NX')
redis.call('PEXPIRE', KEYS[3], ARGV[6])
redis.call('HSET', KEYS[4], ARGV[2], ARGV[7])
redis.call('PEXPIRE', KEYS[4], ARGV[3])
local others, fields = {}, redis.call('HGETALL', KEYS[4])
for at = 1, #fields, 2 do
  if not redis.call('ZSCORE', KEYS[1], fields[at]) then
    redis.call('HDEL', KEYS[4], fields[at])
  elseif fields[at] ~= ARGV[2] then
    others[#others + 1] = fields[at + 1]
  end
end
local result = {redis.call('ZCARD', KEYS[1]), redis.call('GET', KEYS[3]), others}
local month = month_of(now)
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
