-- End stale incidents. ARGV: now, not seen since, max log, max ended, incidents…
local ended = 0
for i = 5, #ARGV do
  local rec = load(ARGV[i])
  if rec and rec.state == 'open' then
    local alive = false
    for _, one in pairs(rec.rep) do
      if one[2] > tonumber(ARGV[2]) then alive = true end
    end
    if not alive then
      local body = redis.call('HGET', KEYS[2], ARGV[i])
      rec.rep = {}
      finish(ARGV[i], rec, body, '', tonumber(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[4]))
      ended = ended + 1
    end
  end
end
return ended
