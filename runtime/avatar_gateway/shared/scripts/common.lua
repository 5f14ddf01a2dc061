-- Part of every script of leases. A lease is in three keys of its tenant:
--   leases   sorted set, lease id -> end in ms since the epoch
--   holders  hash, lease id -> "OWNER SERVICE"; the owner is empty while the caller is away
--   counts   hash, service -> number of leases
-- The time is that of the server. Keys end with the last lease.

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function text(number)
  return string.format('%.0f', number)
end

local function held(keys, id)
  local value = redis.call('HGET', keys.holders, id)
  if not value then
    return nil, nil
  end
  return string.match(value, '^(%S*) (%S+)$')
end

local function remove(keys, id)
  local _, service = held(keys, id)
  redis.call('ZREM', keys.leases, id)
  redis.call('HDEL', keys.holders, id)
  if service and redis.call('HINCRBY', keys.counts, service, -1) <= 0 then
    redis.call('HDEL', keys.counts, service)
  end
end

-- No lease and no gateway lives longer. One that does was written before the clock went back.
local LONGEST_MS = 60000

local function shorten(key, now)
  local ends = text(now + LONGEST_MS)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key, '(' .. ends, '+inf', 'LIMIT', 0, 1000)) do
    redis.call('ZADD', key, ends, id)
  end
end

local function sweep(keys, now)
  shorten(keys.leases, now)
  local late
  repeat
    late = redis.call('ZRANGEBYSCORE', keys.leases, '-inf', text(now), 'LIMIT', 0, 1000)
    for _, id in ipairs(late) do
      remove(keys, id)
    end
  until #late == 0
end

local function put(keys, id, owner, service, ends)
  local _, known = held(keys, id)
  if not known then
    redis.call('HINCRBY', keys.counts, service, 1)
  end
  redis.call('ZADD', keys.leases, text(ends), id)
  redis.call('HSET', keys.holders, id, owner .. ' ' .. (known or service))
end

-- Called after a change: the keys of a tenant live as long as its last lease, and as all three.
local function keep(keys, tenant, now, ttl)
  for _, key in ipairs({keys.leases, keys.holders, keys.counts}) do
    redis.call('PEXPIRE', key, text(2 * ttl))
  end
  redis.call('ZADD', keys.tenants, text(now + 2 * ttl), tenant)
end

-- The calendar month of a time, "YYYYMM" in UTC: days to civil, after Howard Hinnant.
local function month_of(ms)
  local z = math.floor(ms / 86400000) + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d%02d', year, month)
end

local function keys_of(first)
  return {leases = KEYS[first], holders = KEYS[first + 1], counts = KEYS[first + 2], tenants = KEYS[first + 3]}
end

-- Numbers in a text, separated by spaces.
local function figures_of(words)
  local result = {}
  for value in string.gmatch(words or '', '%d+') do
    result[#result + 1] = tonumber(value)
  end
  return result
end

-- The greater ones of two lists of figures, and as text.
local function greatest(width, left, right)
  local result, words = {}, {}
  for index = 1, width do
    result[index] = math.max(left[index] or 0, right[index] or 0)
    words[index] = text(result[index])
  end
  return result, table.concat(words, ' ')
end

-- Adds what is new in the figures of a record to the totals of the hour. The second figure is the
-- time of sessions in ms, which also counts for the month of the tenant.
local function count_growth(prefix, tenants, account, known, figures, now)
  local day, totals = 86400, prefix .. 'usage:' .. text(math.floor(now / 3600000))
  local tenant = string.match(account, '^%S+')
  for index, new in ipairs(figures) do
    local old = known[index] or 0
    if new > old then
      redis.call('HINCRBY', totals, account .. ' ' .. index, text(new - old))
      if index == 2 and tenant ~= '-' then
        redis.call('HINCRBY', prefix .. 'months:' .. tenant, month_of(now), text(new - old))
        redis.call('EXPIRE', prefix .. 'months:' .. tenant, 62 * day)
        redis.call('ZADD', tenants, 'GT', text(now + 31 * day * 1000), tenant)
      end
    end
  end
  redis.call('EXPIRE', totals, 400 * day)
end
