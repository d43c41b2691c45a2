-- Apply a delivery worker's decisions. ARGV: me, base, now, max folded, then seven for
-- each event: event, about, message id, chain, message, fold, delivery state ('' keep,
-- '-' forget)
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
-- A repeated call: the client missed the first answer.
local last = ARGV[#ARGV - 6]
if last ~= '' and redis.call('GET', KEYS[2]) == last then return 1 end
for i = 5, #ARGV, 7 do
  local event, about, id, chain = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if event ~= '' then redis.call('SET', KEYS[2], event) end
  if id ~= '' then enqueue(ARGV[2], chain, id, ARGV[i + 4], ARGV[3]) end
  if ARGV[i + 5] ~= '' then
    if redis.call('LLEN', KEYS[6]) >= tonumber(ARGV[4]) then
      redis.call('HINCRBY', KEYS[10], 'folded', 1)
    else
      redis.call('RPUSH', KEYS[6], ARGV[i + 5])
    end
  end
  if ARGV[i + 6] == '-' then
    redis.call('HDEL', KEYS[5], about)
  elseif ARGV[i + 6] ~= '' then
    redis.call('HSET', KEYS[5], about, ARGV[i + 6])
  end
end
return 1
