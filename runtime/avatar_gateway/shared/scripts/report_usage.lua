-- KEYS: open records, tenants
-- ARGV: prefix of keys, number of figures, then for each record: id, tenant, service, GPU class,
--       1 if it is closed, details, figures
-- Adds what is new in cumulative figures to the totals of the hour. The second figure is the time
-- of sessions in ms, which also counts for the month of the tenant.
local day, prefix, width, now = 86400, ARGV[1], tonumber(ARGV[2]), now_ms()
local totals, month = prefix .. 'usage:' .. text(math.floor(now / 3600000)), month_of(now)
for at = 3, #ARGV, 6 + width do
  local id, tenant, closed = ARGV[at], ARGV[at + 1], ARGV[at + 4] == '1'
  local account = tenant .. ' ' .. ARGV[at + 2] .. ' ' .. ARGV[at + 3]
  local key, known = prefix .. 'record:' .. id, {}
  for value in string.gmatch(redis.call('HGET', key, 'figures') or '', '%d+') do
    known[#known + 1] = tonumber(value)
  end
  local figures = {}
  for index = 1, width do
    local old, new = known[index] or 0, tonumber(ARGV[at + 5 + index])
    figures[index] = text(math.max(old, new))
    if new > old then
      redis.call('HINCRBY', totals, account .. ' ' .. index, text(new - old))
      if index == 2 and tenant ~= '-' then
        redis.call('HINCRBY', prefix .. 'months:' .. tenant, month, text(new - old))
        redis.call('EXPIRE', prefix .. 'months:' .. tenant, 62 * day)
        redis.call('ZADD', KEYS[2], 'GT', text(now + 31 * day * 1000), tenant)
      end
    end
  end
  redis.call('HSET', key, 'figures', table.concat(figures, ' '), 'account', account, 'details', ARGV[at + 5])
  redis.call('EXPIRE', key, day)
  if closed then
    redis.call('ZREM', KEYS[1], id)
  else
    redis.call('ZADD', KEYS[1], text(now), id)
  end
end
redis.call('EXPIRE', totals, 400 * day)
return 1
