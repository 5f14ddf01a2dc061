-- KEYS: open records
-- ARGV: prefix of keys, age in ms after which nobody reports a record, maximum number
-- Takes records of gateways that have died. Returns for each: id, account, figures, details.
local result, now = {}, now_ms()
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(now - tonumber(ARGV[2])), 'LIMIT', 0, tonumber(ARGV[3]))) do
  redis.call('ZREM', KEYS[1], id)
  local found = redis.call('HMGET', ARGV[1] .. 'record:' .. id, 'account', 'figures', 'details')
  if found[1] then
    for _, value in ipairs({id, found[1], found[2], found[3]}) do
      result[#result + 1] = value
    end
  end
end
return result
