-- KEYS: leases, holders, counts, tenants, months, id of the data
-- ARGV: tenant, lease id, owner, service, ttl ms, sessions, sessionsPerService, minutesPerMonth
--       (limits: -1 for none), the id of the data that the gateway knows or ''
-- Returns {}, {limit name, limit, used}, or {'lost'} if this server has lost the data since.
if ARGV[9] ~= '' and redis.call('GET', KEYS[6]) ~= ARGV[9] then
  return {'lost'}
end
local tenant, id, owner, service, ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local sessions, per_service, minutes = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local keys, now = keys_of(1), now_ms()
sweep(keys, now)
local _, known = held(keys, id)
if not known then
  if minutes >= 0 then
    local used = tonumber(redis.call('HGET', KEYS[5], month_of(now)) or 0)
    if used >= minutes * 60000 then
      return {'minutesPerMonth', minutes, math.floor(used / 60000)}
    end
  end
  local used = redis.call('ZCARD', keys.leases)
  if sessions >= 0 and used >= sessions then
    return {'sessions', sessions, used}
  end
  used = tonumber(redis.call('HGET', keys.counts, service) or 0)
  if per_service >= 0 and used >= per_service then
    return {'sessionsPerService', per_service, used}
  end
end
put(keys, id, owner, service, now + ttl)
keep(keys, tenant, now, ttl)
return {}
