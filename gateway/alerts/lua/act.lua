-- Acknowledge or resolve for an operator. ARGV: now, incident, verb, by, max log, max ended
local now, id, rec = tonumber(ARGV[1]), ARGV[2], load(ARGV[2])
if not rec or rec.state ~= 'open' then return 0 end
local body = redis.call('HGET', KEYS[2], id)
if ARGV[3] == 'resolve' then
  rec.rep = {}
  finish(id, rec, body, ARGV[4], now, tonumber(ARGV[5]), tonumber(ARGV[6]))
elseif rec.acked == 0 then
  rec.ack, rec.acked = ARGV[4], now
  save(id, rec)
  say('incident.acknowledged', id, rec, body, now, tonumber(ARGV[5]))
end
return 1
