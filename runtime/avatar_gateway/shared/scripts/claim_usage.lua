-- KEYS: open records
-- ARGV: prefix of keys, number of figures, age in ms from which on a claim without a record is not
--       counted, then for each claim: id of the record, account, details, age in ms, figures
-- Keeps what a pod says of a connection that has ended, until close_abandoned closes its record. A
-- record that its gateway has closed has no use for it.
local day, prefix, width, now = 86400, ARGV[1], tonumber(ARGV[2]), now_ms()
local oldest = tonumber(ARGV[3])
for at = 4, #ARGV, 4 + width do
  local id, given = ARGV[at], {}
  local key = prefix .. 'record:' .. id
  for index = 1, width do
    given[index] = tonumber(ARGV[at + 3 + index])
  end
  local found = redis.call('HMGET', key, 'account', 'closed', 'claim')
  local is_known = found[1] ~= false
  -- Closed records are kept for a day: a claim for an older one would count twice.
  if not found[2] and (is_known or tonumber(ARGV[at + 3]) < oldest) then
    local _, words = greatest(width, figures_of(found[3] or ''), given)
    redis.call('HSET', key, 'claim', words)
    if not is_known then
      redis.call('HSET', key, 'account', ARGV[at + 1], 'details', ARGV[at + 2], 'figures', '')
      redis.call('ZADD', KEYS[1], text(now), id)
    end
    redis.call('EXPIRE', key, day)
  end
end
return 1
