-- Health of an AvatarService for Argo CD. It follows the conditions as kstatus does:
-- Stalled is a failure, Reconciling and a Ready that is not True are progress.
local health = {status = "Progressing", message = "no operator has reconciled this service"}
local status = obj.status
if status == nil or status.conditions == nil then
  return health
end
local found = {}
for _, condition in ipairs(status.conditions) do
  found[condition.type] = condition
end
local ready = found.Ready
if ready ~= nil then
  health.message = ready.message
end
if status.observedGeneration ~= obj.metadata.generation then
  return health
end
local progressing, stalled, degraded = found.Progressing, found.Stalled, found.Degraded
if stalled ~= nil and stalled.status == "True" then
  return {status = "Degraded", message = stalled.message}
end
if progressing ~= nil and progressing.reason == "Paused" then
  return {status = "Suspended", message = progressing.message}
end
if found.Reconciling ~= nil and found.Reconciling.status == "True" then
  health.message = found.Reconciling.message
  return health
end
if ready == nil or ready.status ~= "True" then
  return health
end
if degraded ~= nil and degraded.status == "True" then
  return {status = "Degraded", message = degraded.message}
end
health.status = "Healthy"
return health
