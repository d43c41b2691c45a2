-- Work that was accepted and is paid later: what is reserved for it, by the work's id.
--
-- KEYS[1]  a tenant's works by the time until which they are kept (sorted set)
-- KEYS[2]  their notes (hash); several notes of one work follow each other
-- ARGV     'keep' id note ttl_ms most most_bytes | 'take' id
-- Answer: the note kept (''  there was no room) or the notes taken, then the notes of
--   works that were dropped: kept for too long, or the oldest of too many.

local call = redis.call
local LATE_AT_ONCE = 8         -- bounds one call
local SLACK_MS = 604800000     -- a late sweep still finds the notes

local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local order, notes, id = KEYS[1], KEYS[2], ARGV[2]
local answer = {}

local function remove(work)
  local note = call('HGET', notes, work)
  call('HDEL', notes, work)
  call('ZREM', order, work)
  return note or ''
end

if ARGV[1] == 'take' then
  answer[1] = remove(id)
else
  local note, ttl = ARGV[3], tonumber(ARGV[4])
  local before = call('HGET', notes, id) or ''
  if #before + #note > tonumber(ARGV[6]) then
    answer[1] = ''
  else
    answer[1] = note
    call('HSET', notes, id, before .. note)
    call('ZADD', order, string.format('%.0f', now + ttl), id)
    call('PEXPIRE', order, ttl + SLACK_MS)
    call('PEXPIRE', notes, ttl + SLACK_MS)
    local over = call('ZCARD', order) - tonumber(ARGV[5])
    if over > 0 then
      for _, work in ipairs(call('ZRANGE', order, 0, over - 1)) do
        answer[#answer + 1] = remove(work)
      end
    end
  end
end
local late = call('ZRANGEBYSCORE', order, '-inf', now, 'LIMIT', 0, LATE_AT_ONCE)
for _, work in ipairs(late) do answer[#answer + 1] = remove(work) end
return answer
