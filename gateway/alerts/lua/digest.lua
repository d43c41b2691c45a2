-- Replace folded entries by one message. ARGV: me, base, now, count, message id, chain, message
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
-- A repeated call: the client missed the first answer.
if redis.call('HEXISTS', KEYS[3], ARGV[5]) == 1 then return 1 end
redis.call('LTRIM', KEYS[6], ARGV[4], -1)
enqueue(ARGV[2], ARGV[6], ARGV[5], ARGV[7], ARGV[3])
return 1
