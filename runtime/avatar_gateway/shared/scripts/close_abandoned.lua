-- KEYS: open records, tenants
-- ARGV: prefix of keys, number of figures, age in ms after which nobody reports a record, maximum
--       number
-- Takes records of gateways that have died, and counts what their pods claim. Returns for each: id,
-- account, figures, details.
local result, now, prefix, width = {}, now_ms(), ARGV[1], tonumber(ARGV[2])
local late = text(now - tonumber(ARGV[3]))
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', late, 'LIMIT', 0, tonumber(ARGV[4]))) do
  redis.call('ZREM', KEYS[1], id)
  local key = prefix .. 'record:' .. id
  local found = redis.call('HMGET', key, 'account', 'figures', 'claim', 'details')
  if found[1] then
    local known = figures_of(found[2])
    local figures, words = greatest(width, known, figures_of(found[3] or ''))
    count_growth(prefix, KEYS[2], found[1], known, figures, now)
    redis.call('HSET', key, 'figures', words, 'closed', 1)
    for _, value in ipairs({id, found[1], words, found[4]}) do
      result[#result + 1] = value
    end
  end
end
return result
