-- Shared by the scripts of one receiver.
-- KEYS: 1 lease, 2 position, 3 messages, 4 due, 5 delivery states, 6 folded, 7 dead, 8 dead by
-- time, 9 sent, 10 lost, 11 disabled; BASE .. chain: the ids of a chain in order
local function enqueue(base, chain, id, body, at)
  redis.call('HSET', KEYS[3], id, body)
  if redis.call('RPUSH', base .. chain, id) == 1 then
    redis.call('ZADD', KEYS[4], at, chain)
  end
end
local function advance(base, chain, now)
  redis.call('LPOP', base .. chain)
  if redis.call('EXISTS', base .. chain) == 1 then
    redis.call('ZADD', KEYS[4], now, chain)
  else
    redis.call('ZREM', KEYS[4], chain)
  end
end
