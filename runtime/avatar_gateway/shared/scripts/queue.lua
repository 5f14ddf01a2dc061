-- The fair order of the waiting callers of one service over all gateways: core/fair_queue.py in the
-- same arithmetic, on sorted sets. KEYS: the name of the queue, before which all its keys begin:
--   :tenants          hash, caller -> tenant; a caller is GATEWAY/NUMBER
--   :callers:TENANT   sorted set, caller -> number of its arrival
--   :arrivals         counter
--   :flows            hash, tenant -> "WEIGHT PRIORITY START TAKES_PART IS_SET_ASIDE"
--   :levels           hash, priority -> "VIRTUAL_TIME WEIGHTS"
--   :priorities       sorted set, priority -> minus the priority
--   :started:PRIORITY, :later:PRIORITY, :ahead:PRIORITY   sorted sets of tenants, see `_Level`
--   :aside            sorted set, tenant -> until when it is set aside, ms since the epoch
--   :gateways         sorted set, gateway -> until when it counts as alive, ms since the epoch
--   :counts           hash, gateway -> number of its callers
-- ARGV: operation, then its arguments. All keys expire some time after the last call.
local EPSILON = 1e-6
local KEEP_MS = 1200000
local queue = KEYS[1]

local function name(...)
  return queue .. ':' .. table.concat({...}, ':')
end

local function number(value)
  return string.format('%.17g', value)
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function put(key, score, member)
  redis.call('ZADD', key, number(score), member)
  redis.call('PEXPIRE', key, KEEP_MS)
end

local function set(key, field, value)
  redis.call('HSET', key, field, value)
  redis.call('PEXPIRE', key, KEEP_MS)
end

local function load_flow(tenant)
  local text = redis.call('HGET', name('flows'), tenant)
  if not text then
    return nil
  end
  local weight, priority, start, part, aside = string.match(text, '^(%S+) (%S+) (%S+) (%d) (%d)$')
  return {tenant = tenant, weight = tonumber(weight), priority = priority, start = tonumber(start),
    takes_part = part == '1', is_set_aside = aside == '1'}
end

local function save_flow(flow)
  set(name('flows'), flow.tenant, table.concat({
    flow.weight, flow.priority, number(flow.start), flow.takes_part and 1 or 0,
    flow.is_set_aside and 1 or 0}, ' '))
end

local function finish(flow)
  return flow.start + 1 / flow.weight
end

local function callers_of(tenant)
  return redis.call('ZCARD', name('callers', tenant))
end

local function load_level(priority)
  local text = redis.call('HGET', name('levels'), priority)
  if not text then
    return nil
  end
  local virtual, weights = string.match(text, '^(%S+) (%S+)$')
  return {priority = priority, virtual = tonumber(virtual), weights = tonumber(weights)}
end

local function save_level(level)
  set(name('levels'), level.priority, number(level.virtual) .. ' ' .. level.weights)
end

local function has_started(level, flow)
  return flow.start <= level.virtual + EPSILON
end

local function first(kind, priority)
  local found = redis.call('ZRANGE', name(kind, priority), 0, 0, 'WITHSCORES')
  if #found == 0 then
    return nil, nil
  end
  return found[1], tonumber(found[2])
end

local function catch_up(flow)
  if callers_of(flow.tenant) > 0 then
    flow.start = 0
    save_flow(flow)
  else
    redis.call('HDEL', name('flows'), flow.tenant)
    redis.call('ZREM', name('aside'), flow.tenant)
  end
end

local function forget_if_empty(priority)
  if redis.call('EXISTS', name('started', priority), name('later', priority)) > 0 then
    return
  end
  for _, tenant in ipairs(redis.call('ZRANGE', name('ahead', priority), 0, -1)) do
    catch_up(load_flow(tenant))
  end
  redis.call('DEL', name('ahead', priority))
  redis.call('HDEL', name('levels'), priority)
  redis.call('ZREM', name('priorities'), priority)
end

local function start(level)
  local tenant = first('later', level.priority)
  while tenant do
    local flow = load_flow(tenant)
    if not has_started(level, flow) then
      return
    end
    redis.call('ZREM', name('later', level.priority), tenant)
    put(name('started', level.priority), finish(flow), tenant)
    tenant = first('later', level.priority)
  end
end

local function remove(flow)
  local removed = 0
  for _, kind in ipairs({'started', 'later', 'ahead'}) do
    removed = removed + redis.call('ZREM', name(kind, flow.priority), flow.tenant)
  end
  local level = load_level(flow.priority)
  if level and removed > 0 then
    level.weights = level.weights - flow.weight
    save_level(level)
  end
end

local function add(flow)
  local level = load_level(flow.priority)
  if not level then
    level = {priority = flow.priority, virtual = 0, weights = 0}
    put(name('priorities'), -tonumber(flow.priority), flow.priority)
  end
  if callers_of(flow.tenant) > 0 and not flow.is_set_aside then
    if not flow.takes_part then
      flow.start = math.max(flow.start, level.virtual)
    end
    flow.takes_part = true
    if has_started(level, flow) then
      put(name('started', flow.priority), finish(flow), flow.tenant)
    else
      put(name('later', flow.priority), flow.start, flow.tenant)
    end
    level.weights = level.weights + flow.weight
    save_flow(flow)
    save_level(level)
    return
  end
  flow.takes_part = false
  save_flow(flow)
  if has_started(level, flow) then
    catch_up(flow)
  else
    put(name('ahead', flow.priority), flow.start, flow.tenant)
    level.weights = level.weights + flow.weight
  end
  save_level(level)
  forget_if_empty(flow.priority)
end

local function advance(priority)
  local level = load_level(priority)
  if not level then
    return
  end
  local _, earliest = first('later', priority)
  if earliest and not first('started', priority) then
    level.virtual = earliest
  end
  local work = 1
  local tenant, till = first('ahead', priority)
  while tenant do
    local needed = math.max(0, (till - level.virtual) * level.weights)
    if needed > work then
      break
    end
    work = work - needed
    level.virtual = math.max(level.virtual, till)
    redis.call('ZREM', name('ahead', priority), tenant)
    local flow = load_flow(tenant)
    level.weights = level.weights - flow.weight
    catch_up(flow)
    tenant, till = first('ahead', priority)
  end
  if level.weights > 0 then
    level.virtual = level.virtual + work / level.weights
  end
  save_level(level)
  start(level)
end

local function drop(caller, tenant)
  redis.call('HDEL', name('tenants'), caller)
  redis.call('ZREM', name('callers', tenant), caller)
  local gateway = string.match(caller, '^(.*)/')
  if redis.call('HINCRBY', name('counts'), gateway, -1) <= 0 then
    redis.call('HDEL', name('counts'), gateway)
  end
end

local function join(caller, tenant, weight, priority)
  if redis.call('HEXISTS', name('tenants'), caller) == 1 then
    return
  end
  local flow = load_flow(tenant)
  if flow then
    remove(flow)
    if flow.priority ~= priority then
      flow.start, flow.takes_part = 0, false
      forget_if_empty(flow.priority)
    end
    flow.weight, flow.priority = tonumber(weight), priority
  else
    flow = {tenant = tenant, weight = tonumber(weight), priority = priority, start = 0,
      takes_part = false, is_set_aside = false}
  end
  put(name('callers', tenant), redis.call('INCR', name('arrivals')), caller)
  set(name('tenants'), caller, tenant)
  redis.call('HINCRBY', name('counts'), string.match(caller, '^(.*)/'), 1)
  add(flow)
end

local function leave(caller)
  local tenant = redis.call('HGET', name('tenants'), caller)
  if tenant then
    local flow = load_flow(tenant)
    remove(flow)
    drop(caller, tenant)
    add(flow)
  end
end

local function grant(caller)
  local tenant = redis.call('HGET', name('tenants'), caller)
  if tenant then
    advance(load_flow(tenant).priority)
    local flow = load_flow(tenant)
    remove(flow)
    drop(caller, tenant)
    flow.start = finish(flow)
    add(flow)
  end
end

local function mark(tenant, is_set_aside)
  local flow = load_flow(tenant)
  if flow and flow.is_set_aside ~= is_set_aside then
    remove(flow)
    flow.is_set_aside = is_set_aside
    add(flow)
  end
end

local function resume_due(now)
  for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', name('aside'), '-inf', now)) do
    redis.call('ZREM', name('aside'), tenant)
    mark(tenant, false)
  end
end

local function next_caller()
  for _, priority in ipairs(redis.call('ZRANGE', name('priorities'), 0, -1)) do
    local tenant = first('started', priority) or first('later', priority)
    if tenant then
      return redis.call('ZRANGE', name('callers', tenant), 0, 0)[1]
    end
  end
  return nil
end

local function is_alive(caller, now)
  local till = redis.call('ZSCORE', name('gateways'), string.match(caller, '^(.*)/'))
  return till and tonumber(till) > now
end

-- Removes callers of dead gateways until `find` returns another one.
local function first_alive(find, now)
  local caller = find()
  while caller and not is_alive(caller, now) do
    leave(caller)
    caller = find()
  end
  return caller
end

-- before, tenant, priority: whether a new caller has to wait behind another one, and the number of
-- all callers.
local function before()
  local tenant, priority, now = ARGV[2], tonumber(ARGV[3]), now_ms()
  resume_due(now)
  first_alive(next_caller, now)
  local own = first_alive(function()
    return redis.call('ZRANGE', name('callers', tenant), 0, 0)[1]
  end, now)
  local found = own and 1 or 0
  for _, each in ipairs(redis.call('ZRANGE', name('priorities'), 0, -1)) do
    if tonumber(each) >= priority and (first('started', each) or first('later', each)) then
      found = 1
    end
  end
  return {found, redis.call('HLEN', name('tenants'))}
end

-- poll, gateway, ttl ms, number of leaving callers, those callers, then caller, tenant, weight and
-- priority of each new one. Returns {next caller or '', number of callers of the gateway}.
local function poll()
  local gateway, ttl, leaving, now = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), now_ms()
  put(name('gateways'), now + ttl, gateway)
  for at = 5, 4 + leaving do
    leave(ARGV[at])
  end
  for at = 5 + leaving, #ARGV, 4 do
    join(ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
  end
  resume_due(now)
  local caller = first_alive(next_caller, now)
  redis.call('PEXPIRE', name('arrivals'), KEEP_MS)
  redis.call('PEXPIRE', name('counts'), KEEP_MS)
  return {caller or '', tonumber(redis.call('HGET', name('counts'), gateway) or 0)}
end

-- Returns every tenant with callers: its name, weight, priority, start, whether it takes part and
-- is set aside, number of callers; then the levels; then the rank of each asked caller, -1 if gone.
local function snapshot()
  local flows, levels, ranks = {}, {}, {}
  local found = redis.call('HGETALL', name('flows'))
  for at = 1, #found, 2 do
    local flow = load_flow(found[at])
    table.insert(flows, {flow.tenant, flow.weight, flow.priority, number(flow.start),
      flow.takes_part and 1 or 0, flow.is_set_aside and 1 or 0, callers_of(flow.tenant)})
  end
  found = redis.call('HGETALL', name('levels'))
  for at = 1, #found, 2 do
    local level = load_level(found[at])
    table.insert(levels, {level.priority, number(level.virtual)})
  end
  for at = 2, #ARGV do
    local tenant = redis.call('HGET', name('tenants'), ARGV[at])
    local rank = tenant and redis.call('ZRANK', name('callers', tenant), ARGV[at])
    table.insert(ranks, rank or -1)
  end
  return {flows, levels, ranks}
end

local operation = ARGV[1]
if operation == 'poll' then
  return poll()
elseif operation == 'before' then
  return before()
elseif operation == 'grant' then
  return grant(ARGV[2])
elseif operation == 'aside' then
  put(name('aside'), now_ms() + tonumber(ARGV[3]), ARGV[2])
  return mark(ARGV[2], true)
elseif operation == 'resume' then
  redis.call('ZREM', name('aside'), ARGV[2])
  return mark(ARGV[2], false)
end
return snapshot()
