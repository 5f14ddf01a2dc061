-- KEYS: open records, tenants
-- ARGV: prefix of keys, number of figures, then for each record: id, tenant, service, GPU class,
--       1 if it is closed, details, figures
-- Adds what is new in cumulative figures to the totals of the hour.
local day, prefix, width, now = 86400, ARGV[1], tonumber(ARGV[2]), now_ms()
for at = 3, #ARGV, 6 + width do
  local id, closed = ARGV[at], ARGV[at + 4] == '1'
  local account = ARGV[at + 1] .. ' ' .. ARGV[at + 2] .. ' ' .. ARGV[at + 3]
  local key, given = prefix .. 'record:' .. id, {}
  for index = 1, width do
    given[index] = tonumber(ARGV[at + 5 + index])
  end
  local known = figures_of(redis.call('HGET', key, 'figures'))
  local figures, words = greatest(width, known, given)
  count_growth(prefix, KEYS[2], account, known, figures, now)
  redis.call('HSET', key, 'figures', words, 'account', account, 'details', ARGV[at + 5])
  redis.call('EXPIRE', key, day)
  if closed then
    redis.call('HSET', key, 'closed', 1)
    redis.call('ZREM', KEYS[1], id)
  else
    redis.call('ZADD', KEYS[1], text(now), id)
  end
end
return 1
