-- Shared by the scripts about incidents.
-- KEYS: 1 records, 2 bodies, 3 causes, 4 locals, 5 ended, 6 log, 7 version, 8 lost
local function say(kind, id, rec, body, now, max)
  if redis.call('XLEN', KEYS[6]) >= max then
    redis.call('HINCRBY', KEYS[8], 'log_full', 1)
  end
  redis.call('XADD', KEYS[6], 'MAXLEN', max, '*', 't', kind, 'i', id, 's', rec.sev,
    'a', rec.act, 'o', string.format('%.3f', rec.opened), 'b', body,
    'n', string.format('%.3f', now))
end
local function load(id)
  local raw = id and redis.call('HGET', KEYS[1], id)
  return raw and cjson.decode(raw) or nil
end
local function save(id, rec)
  redis.call('HSET', KEYS[1], id, cjson.encode(rec))
  redis.call('INCR', KEYS[7])
end
local function forget(id)
  local rec = load(id)
  if not rec then return end
  for key in pairs(rec.loc) do redis.call('HDEL', KEYS[4], key) end
  redis.call('HDEL', KEYS[1], id)
  redis.call('HDEL', KEYS[2], id)
end
local function finish(id, rec, body, by, now, max_log, max_ended)
  rec.state, rec.ended, rec.by = 'resolved', now, by
  for key in pairs(rec.causes) do
    if redis.call('HGET', KEYS[3], key) == id then redis.call('HDEL', KEYS[3], key) end
  end
  rec.causes = {}
  redis.call('HSET', KEYS[2], id, body)
  redis.call('ZADD', KEYS[5], now, id)
  say('incident.resolved', id, rec, body, now, max_log)
  save(id, rec)
  local over = redis.call('ZCARD', KEYS[5]) - max_ended
  if over > 0 then
    for _, old in ipairs(redis.call('ZRANGE', KEYS[5], 0, over - 1)) do
      redis.call('ZREM', KEYS[5], old)
      if old ~= id then forget(old) end
    end
  end
end
