-- Open, join or end a shared incident. ARGV: now, gateway, local, verb, severity, action, score, class, body,
--       max open, max log, max ended, a cause that only joins what other gateways
--       report, number of causes to look for, those, causes to keep…
local now, gw, here, verb = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
local sev, act, score = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local cls, body = ARGV[8], ARGV[9]
local max_open, max_log, max_ended = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local loose, looked = ARGV[13], tonumber(ARGV[14])
local mine = gw .. '|' .. here
local id = redis.call('HGET', KEYS[4], mine)
local rec = load(id)
if not rec then id, rec = here, load(here) end -- recalled from the shared baselines
if verb == 'resolved' then
  if not rec or rec.state ~= 'open' then return rec and id or '' end
  if rec.rep[gw] and rec.rep[gw][1] == here then rec.rep[gw] = nil end
  if next(rec.rep) == nil then
    finish(id, rec, body, '', now, max_log, max_ended)
  else
    save(id, rec)
  end
  return id
end
-- Ended by an operator, or the report is older than the end (it waited, was recalled).
if rec and rec.state ~= 'open' and (rec.by ~= '' or now < rec.ended) then return id end
if not rec or rec.state ~= 'open' then
  rec = nil
  for i = 15, 14 + looked do
    local found = redis.call('HGET', KEYS[3], ARGV[i])
    local other = load(found)
    if other and other.state == 'open' then id, rec = found, other break end
  end
  if not rec and loose ~= '' then
    local found = redis.call('HGET', KEYS[3], loose)
    local other = load(found)
    if other and other.state == 'open' and not other.rep[gw] then id, rec = found, other end
  end
end
local kind = nil
if not rec then
  if redis.call('HLEN', KEYS[1]) - redis.call('ZCARD', KEYS[5]) >= max_open then
    redis.call('HINCRBY', KEYS[8], 'incidents', 1)
    return ''
  end
  id = here
  redis.call('ZREM', KEYS[5], id)
  rec = {state = 'open', opened = now, ended = 0, sev = sev, act = act, score = score,
    cls = cls, ack = '', acked = 0, by = '', rep = {}, loc = {}, causes = {}}
  kind = 'incident.opened'
elseif sev > rec.sev or act > rec.act then
  kind = 'incident.updated'
elseif cls ~= rec.cls and rec.cls == 'volume' then
  kind = 'incident.updated'
end
if kind or score > rec.score then
  redis.call('HSET', KEYS[2], id, body)
  rec.cls = cls
end
rec.sev, rec.act = math.max(sev, rec.sev), math.max(act, rec.act)
rec.score = math.max(score, rec.score)
rec.rep[gw], rec.loc[mine] = {here, now}, 1
redis.call('HSET', KEYS[4], mine, id)
for i = 15 + looked, #ARGV do
  if redis.call('HSETNX', KEYS[3], ARGV[i], id) == 1 then rec.causes[ARGV[i]] = 1 end
end
save(id, rec)
if kind then say(kind, id, rec, body, now, max_log) end
return id
