-- The message to send next. ARGV: base, now
while true do
  local first = redis.call('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')
  if #first == 0 then return false end
  local id = redis.call('LINDEX', ARGV[1] .. first[1], 0)
  local body = id and redis.call('HGET', KEYS[3], id)
  if body then return {first[2], body} end
  advance(ARGV[1], first[1], first[2])
end
