-- Log a standalone event. KEYS: as incident.lua, 9 begun events.
-- ARGV: now, type, gateway, local, severity, body,
--       chain, key, begins, until, max log, seconds that an end may come late
local now, key, known = tonumber(ARGV[1]), ARGV[8], KEYS[9]
if key ~= '' then
  redis.call('ZREMRANGEBYSCORE', known, '-inf', now - tonumber(ARGV[12]))
  if ARGV[9] == '1' then
    local held = redis.call('ZSCORE', known, key)
    if not held or tonumber(held) < tonumber(ARGV[10]) then
      redis.call('ZADD', known, ARGV[10], key)
    end
    if held and tonumber(held) > now then return 0 end
  elseif redis.call('ZREM', known, key) == 0 then
    return 0
  end
end
local body = ARGV[6]
if ARGV[4] ~= '' then
  local id = redis.call('HGET', KEYS[4], ARGV[3] .. '|' .. ARGV[4])
  if id and id ~= ARGV[4] then
    local from, to = string.find(body, '"id":"' .. ARGV[4] .. '"', 1, true)
    if from then
      body = string.sub(body, 1, from - 1) .. '"id":"' .. id .. '"' .. string.sub(body, to + 1)
    end
  end
end
say(ARGV[2], ARGV[7], {sev = tonumber(ARGV[5]), act = 0, opened = 0}, body, now, tonumber(ARGV[11]))
return 1
