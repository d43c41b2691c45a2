-- Record the outcome of an attempt.
-- ARGV: me, base, now, message id, chain, outcome, message, retry at, max dead, max sent
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local base, now, id, chain, outcome = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
if redis.call('LINDEX', base .. chain, 0) ~= id then return 1 end
if outcome == 'retry' then
  redis.call('HSET', KEYS[3], id, ARGV[7])
  redis.call('ZADD', KEYS[4], ARGV[8], chain)
  return 1
end
redis.call('HDEL', KEYS[3], id)
advance(base, chain, now)
if outcome == 'sent' then
  redis.call('LPUSH', KEYS[9], ARGV[7])
  redis.call('LTRIM', KEYS[9], 0, tonumber(ARGV[10]) - 1)
  return 1
end
redis.call('HSET', KEYS[7], id, ARGV[7])
redis.call('ZADD', KEYS[8], now, id)
local over = redis.call('ZCARD', KEYS[8]) - tonumber(ARGV[9])
if over > 0 then
  for _, old in ipairs(redis.call('ZRANGE', KEYS[8], 0, over - 1)) do
    redis.call('ZREM', KEYS[8], old)
    redis.call('HDEL', KEYS[7], old)
    redis.call('HINCRBY', KEYS[10], 'dead_letters', 1)
  end
end
return 1
