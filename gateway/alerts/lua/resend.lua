-- Queue dead letters again and enable the receiver.
-- ARGV: base, now, receiver, enable ('1': even if there are no letters), then
--       three for each letter: message id, chain, message
local count = 0
for i = 5, #ARGV, 3 do
  if redis.call('ZREM', KEYS[8], ARGV[i]) == 1 then
    redis.call('HDEL', KEYS[7], ARGV[i])
    enqueue(ARGV[1], ARGV[i + 1], ARGV[i], ARGV[i + 2], ARGV[2])
    count = count + 1
  end
end
-- In the same script, else a delivery worker could bury them again.
if count > 0 or ARGV[4] == '1' then redis.call('HDEL', KEYS[11], ARGV[3]) end
return count
