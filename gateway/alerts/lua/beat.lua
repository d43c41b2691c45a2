-- Mark a gateway's incidents as seen. ARGV: now, gateway, its ids of incidents…
local gw = ARGV[2]
for i = 3, #ARGV do
  local id = redis.call('HGET', KEYS[4], gw .. '|' .. ARGV[i])
  local rec = load(id)
  if rec and rec.state == 'open' then
    rec.rep[gw] = {ARGV[i], tonumber(ARGV[1])}
    redis.call('HSET', KEYS[1], id, cjson.encode(rec))
  end
end
return 1
