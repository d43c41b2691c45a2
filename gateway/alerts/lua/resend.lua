-- ARGV: base, now, then three for each letter: message id, chain, message
local count = 0
for i = 3, #ARGV, 3 do
  if redis.call('ZREM', KEYS[8], ARGV[i]) == 1 then
    redis.call('HDEL', KEYS[7], ARGV[i])
    enqueue(ARGV[1], ARGV[i + 1], ARGV[i], ARGV[i + 2], ARGV[2])
    count = count + 1
  end
end
return count
