-- KEYS: counter
-- ARGV: limit, ttl ms
-- Counts one use. Returns 1, or 0 if the limit was reached before.
local used = tonumber(redis.call('GET', KEYS[1]) or 0)
if used >= tonumber(ARGV[1]) then
  return 0
end
redis.call('INCR', KEYS[1])
if used == 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 1
