-- The whole limiter in one script: many operations of one worker in one atomic call.
--
-- KEYS[1]  what the store remembers of this worker's calls (its stream)
-- ARGV[1]  one packed string, little-endian (gateway/store/wire.py writes it):
--   call   := seq:f64 plans:u16 plan{plans} op*
--   plan   := cells:u8 cell{cells}
--   cell   := kind:u8 window_us:f64 amount:f64 overdraft:f64 key_length:u16 key
--             kind: 0 sliding, 1 calendar (window_us is the end of the period),
--             2 concurrent (window_us is the lease); +4 firm: a reservation is final;
--             +8 twin: an earlier cell of the plan has the same key
--             +16 edge: the call holds the edge of this cell, and may cost more there
--             +32 look: it must have room, beside what is in its tally, and counts
--             nothing; also a twin. The tallies are the last cells of the plan, in the
--             order of the looks
--   op     := code:u8 plan:u16 body; a lease stands only where a plan has leases
--     1 reserve  cost:f64{cells} lease:16 least:f64{cells}             all or none
--                (what the costs, `least` and edges mean: gateway/limits/windows.py)
--     2 settle   at:f64 cost:f64{cells} actual:f64{cells} lease:16
--     3 renew    lease:16
--     4 hold     at:f64 cost:f64{cells} lease:16 reserve of the past, unchecked
--     5 charge   at:f64 cost:f64{cells}          settled weight of the past, unchecked
--     6 peek
-- Answer: now, seq of the last call with operations before this one, its time, its
--   flags (one character per reserve in it: 1 admitted, 0 refused), then per reserve
--   -1 sum{cells}                                admitted
--   violated(from 0) sum{cells} retry_us frees_us   refused; of the cells without room
--                                                   the one that has room last
--   and per peek sum{cells}.
--
-- Exactly once: a worker has one call in flight and numbers its calls. A number that is
-- not above the remembered one is a repeat, or a call that was given up and wakes late
-- with a frozen store: it changes nothing. The number is written first, so that a store
-- that is full or read-only refuses before anything else has happened; what the call
-- did is noted after all checks, before the counters are saved.
--
-- A sliding counter is a hash: field m holds sum, newest bucket's index, newest
-- bucket's weight, unsettled weight of this and of the last epoch, epoch; the fields
-- 0..60 hold the older buckets, by index modulo 61. A calendar counter is a string of
-- sum, unsettled, unsettled, epoch. Leases are a sorted set by expiry.

local call, unpack_at, pack = redis.call, struct.unpack, struct.pack
local floor, ceil, min, max = math.floor, math.ceil, math.min, math.max

local BUCKETS, RING = 60, 61
local EPOCH_US = 600000000       -- as gateway/limits/windows.py
local LEASE_WAIT_US = 1000000
local PERIOD_SLACK_MS = 3600000  -- a late settlement still finds its period's counter
local STREAM_TTL_S = 86400
-- The time to live is renewed once in so many buckets, and lasts so many more.
local TTL_EVERY = 15

local clock = call('TIME')
local now = clock[1] * 1000000 + clock[2]
local epoch_now = floor(now / EPOCH_US)

local packed = ARGV[1]
local size = #packed
local seq, plan_count, pos = unpack_at('<dH', packed)

local fence, past_seq, past_at, past_flags = -1, -1, 0, ''
local memory = call('GET', KEYS[1])
if memory then
  fence, past_seq, past_at = unpack_at('<ddd', memory)
  past_flags = string.sub(memory, 25)
end
local out, out_size = { now, past_seq, past_at, past_flags }, 4
if seq <= fence then return { now, past_seq, past_at, past_flags, 'stale' } end
local fenced = pack('<ddd', seq, past_seq, past_at) .. past_flags
call('SET', KEYS[1], fenced, 'EX', STREAM_TTL_S)

local cells = {}                 -- by key: state of each counter touched in this call
local changed, changed_count = {}, 0
local flags, flag_count = {}, 0

local function change(cell)
  cell.ring = false
  if not cell.changed then
    cell.changed = true
    changed_count = changed_count + 1
    changed[changed_count] = cell
  end
end

-- Unsettled weight, in two generations -----------------------------------------------

local function turn_epoch(cell)
  if cell.epoch < epoch_now then
    cell.earlier = cell.epoch == epoch_now - 1 and cell.open or 0
    cell.open = 0
    cell.epoch = epoch_now
  end
end

local function unsettle(cell, at, cost)
  local age = cell.epoch - floor(at / EPOCH_US)
  if age <= 0 then cell.open = cell.open + cost
  elseif age == 1 then cell.earlier = cell.earlier + cost end
end

local function release(cell, at, cost)
  local age = cell.epoch - floor(at / EPOCH_US)
  if age <= 0 then cell.open = max(0, cell.open - cost)
  elseif age == 1 then cell.earlier = max(0, cell.earlier - cost) end
end

-- Sliding windows --------------------------------------------------------------------

-- Buckets that left the window hand their slots to those that enter it.
local function advance(cell, index)
  local old, key = cell.index, cell.key
  cell.index = index
  if index - old >= RING then
    call('DEL', key)
    cell.sum, cell.last, cell.fresh = 0, 0, true
    return
  end
  local slots, n = {}, 0
  for entering = old + 1, index do
    n = n + 1
    slots[n] = entering % RING
  end
  local gone = call('HMGET', key, unpack(slots))
  local writes = {}
  for i = 1, n do
    local weight = tonumber(gone[i] or 0)
    if weight ~= 0 then
      cell.sum = cell.sum - weight
      writes[slots[i]] = 0
    end
  end
  if cell.last ~= 0 then writes[old % RING] = cell.last end
  cell.last, cell.writes = 0, writes
  if floor(old / TTL_EVERY) ~= floor(index / TTL_EVERY) then cell.fresh = true end
end

local function load_sliding(cell)
  cell.width = ceil(cell.window / BUCKETS)
  local index = floor(now / cell.width)
  local head = call('HGET', cell.key, 'm')
  if not head then
    cell.sum, cell.index, cell.fresh = 0, index, true
    return 0
  end
  cell.sum, cell.index, cell.last, cell.open, cell.earlier, cell.epoch =
    unpack_at('<dddddd', head)
  if cell.index < index then
    change(cell)
    advance(cell, index)
  end
  turn_epoch(cell)
  return cell.sum
end

local function slot_weight(cell, bucket)
  local written = cell.writes and cell.writes[bucket % RING]
  return written or tonumber(call('HGET', cell.key, bucket % RING) or 0)
end

-- Adds to the bucket of a time in the past; what has left the window is not counted.
local function put_at(cell, at, weight)
  local bucket = floor(at / cell.width)
  if bucket >= cell.index then
    if weight < 0 then weight = -min(-weight, cell.last) end
    cell.last = cell.last + weight
  elseif bucket > cell.index - RING then
    local before = slot_weight(cell, bucket)
    if weight < 0 then weight = -min(-weight, before) end
    cell.writes = cell.writes or {}
    cell.writes[bucket % RING] = before + weight
  else
    return
  end
  cell.sum = cell.sum + weight
end

local function save_sliding(cell)
  local head = pack('<dddddd', cell.sum, cell.index, cell.last, cell.open,
    cell.earlier, cell.epoch)
  if cell.writes then
    local fields, n = { 'm', head }, 2
    for slot, weight in pairs(cell.writes) do
      fields[n + 1], fields[n + 2] = slot, weight
      n = n + 2
    end
    call('HSET', cell.key, unpack(fields))
  else
    call('HSET', cell.key, 'm', head)
  end
  if cell.fresh then
    local ttl_us = (RING + TTL_EVERY + 1) * cell.width
    call('PEXPIRE', cell.key, ceil(ttl_us / 1000) + 1000)
  end
end

local function ring_of(cell)
  if cell.ring then return cell.ring end
  local ring = {}
  local all = call('HGETALL', cell.key)
  for i = 1, #all, 2 do
    local slot = tonumber(all[i])
    if slot then ring[slot] = tonumber(all[i + 1]) end
  end
  for slot, weight in pairs(cell.writes or {}) do ring[slot] = weight end
  ring[cell.index % RING] = cell.last
  cell.ring = ring
  return ring
end

-- Microseconds until at least `excess` has left the window.
local function until_gone(cell, excess)
  if excess <= 0 then return 0 end
  local ring, bucket = ring_of(cell), cell.index - RING
  while excess > 0 and bucket < cell.index do
    bucket = bucket + 1
    excess = excess - (ring[bucket % RING] or 0)
  end
  return (bucket + RING) * cell.width - now
end

-- Calendar periods -------------------------------------------------------------------

local function load_calendar(cell)
  local value = call('GET', cell.key)
  if value then
    cell.sum, cell.open, cell.earlier, cell.epoch = unpack_at('<dddd', value)
    turn_epoch(cell)
  else
    cell.sum = 0
  end
  return cell.sum
end

local function save_calendar(cell)
  local value = pack('<dddd', cell.sum, cell.open, cell.earlier, cell.epoch)
  local ends_ms = ceil(cell.window / 1000) + PERIOD_SLACK_MS
  call('SET', cell.key, value, 'PXAT', string.format('%.0f', ends_ms))
end

-- Leases -----------------------------------------------------------------------------

local function load_leases(cell)
  call('ZREMRANGEBYSCORE', cell.key, '-inf', now)
  cell.sum = call('ZCARD', cell.key)
  return cell.sum
end

local function open_lease(cell, lease)
  local added = call('ZADD', cell.key, now + cell.window, lease)
  if cell.sum then cell.sum = cell.sum + added end
  change(cell)
end

local function end_lease(cell, lease)
  local ended = call('ZREM', cell.key, lease)
  if cell.sum then cell.sum = cell.sum - ended end
end

local function save_leases(cell)
  call('PEXPIRE', cell.key, ceil(cell.window / 1000) + 1000)
end

-- All kinds --------------------------------------------------------------------------

local LOAD = { [0] = load_sliding, load_calendar, load_leases }
local SAVE = { [0] = save_sliding, save_calendar, save_leases }

local function add(cell, cost, lease)
  if cell.kind == 2 then
    if cost > 0 then open_lease(cell, lease) end
    return
  end
  cell.sum = cell.sum + cost
  if cell.kind == 0 then cell.last = cell.last + cost end
  if not cell.firm then cell.open = cell.open + cost end
  change(cell)
end

local function settle_cell(cell, at, cost, actual, lease)
  if cell.kind == 2 then
    if cost > 0 then end_lease(cell, lease) end
    return
  end
  local more = actual - cost
  if more == 0 and cell.firm then return end
  if not cell.sum then LOAD[cell.kind](cell) end
  if not cell.firm then release(cell, at, cost) end
  if cell.kind == 1 then
    cell.sum = max(0, cell.sum + more)
  elseif more > 0 then
    cell.sum = cell.sum + more
    cell.last = cell.last + more
  elseif more < 0 then
    put_at(cell, at, more)
  end
  change(cell)
end

local function add_past(cell, at, cost, lease)
  if cell.kind == 2 then
    if lease and cost > 0 then open_lease(cell, lease) end
    return
  end
  if not cell.sum then LOAD[cell.kind](cell) end
  if lease and not cell.firm then unsettle(cell, at, cost) end
  if cell.kind == 1 then
    cell.sum = cell.sum + cost
  else
    put_at(cell, at, cost)
  end
  change(cell)
end

-- As `fits` in gateway/limits/windows.py, for a cost that does not fit the amount.
local function fits_overdraft(cell, cost, least, amount, overdraft, edge, beside)
  if cost <= least and not edge then return false end
  local open_weight = min(cell.open + cell.earlier, cell.sum)
  if cell.sum - open_weight + least > amount then return false end
  return edge or cell.sum + beside + cost <= amount + overdraft
end

local function wait_us(cell, cost, least, amount, overdraft, edge)
  local certain = cost <= least and not edge
  local most = certain and amount or amount + overdraft
  if least > amount or (cost > most and not edge) then return -1 end
  if cell.kind == 2 then return LEASE_WAIT_US end
  if certain then
    if cell.kind == 1 then return max(0, cell.window - now) end
    return until_gone(cell, cell.sum + cost - amount)
  end
  local settled = cell.sum - min(cell.open + cell.earlier, cell.sum)
  local excess = settled + least - amount
  if not edge then excess = max(excess, settled + cost - most) end
  if excess <= 0 then return LEASE_WAIT_US end
  if cell.kind == 1 then return max(0, cell.window - now) end
  return until_gone(cell, excess)
end

-- Until settled weight alone leaves room for a cost of one; 0: it does, or unknown.
local function frees_us(cell, amount)
  if cell.kind == 2 then return 0 end
  local settled = cell.sum - cell.open - cell.earlier
  if settled < amount then return 0 end
  if cell.kind == 1 then return max(0, cell.window - now) end
  return until_gone(cell, settled + 1 - amount)
end

-- Operations -------------------------------------------------------------------------

local function answer_sums(plan)
  for i = 1, plan.n do
    local cell = plan[i]
    out[out_size + i] = cell.sum or LOAD[cell.kind](cell)
  end
  out_size = out_size + plan.n
end

local function reserve(plan, values)
  local n, amounts, violated, longest = plan.n, plan.amounts, nil, nil
  -- The costs, the lease if the plan has leases, the least costs.
  local first = plan.leased and n + 1 or n
  for i = 1, n do
    local cell, cost, amount = plan[i], values[i], amounts[i]
    local sum = cell.sum or LOAD[cell.kind](cell)
    local tally, beside = plan[plan.looks[i]], 0
    if tally then beside = tally.sum or LOAD[tally.kind](tally) end
    if cost > 0 and sum + beside + cost > amount then
      local least, overdraft, edge = values[first + i], plan.overdrafts[i], plan.edges[i]
      if not fits_overdraft(cell, cost, least, amount, overdraft, edge, beside)
        and longest ~= -1 then
        local wait = LEASE_WAIT_US
        if sum + cost > amount then
          wait = wait_us(cell, cost, least, amount, overdraft, edge)
        end
        if wait == -1 or not violated or wait > longest then
          violated, longest = i, wait
        end
      end
    end
  end
  flag_count = flag_count + 1
  flags[flag_count] = violated and '0' or '1'
  out_size = out_size + 1
  out[out_size] = violated and violated - 1 or -1
  if violated then
    answer_sums(plan)
    out[out_size + 1] = longest
    out[out_size + 2] = frees_us(plan[violated], amounts[violated])
    out_size = out_size + 2
    return
  end
  local lease, twins = values[n + 1], plan.twins
  for i = 1, n do
    if not twins[i] then add(plan[i], values[i], lease) end
  end
  answer_sums(plan)
end

local function settle(plan, values)
  local n, twins, lease = plan.n, plan.twins, values[2 * plan.n + 2]
  for i = 1, n do
    if not twins[i] then
      settle_cell(plan[i], values[1], values[i + 1], values[n + i + 1], lease)
    end
  end
end

local function renew(plan, values)
  for i = 1, plan.n do
    if plan[i].kind == 2 and not plan.twins[i] then open_lease(plan[i], values[1]) end
  end
end

-- A lease marks a weight that is still to be settled (for plans without: any value).
local function hold(plan, values)
  local lease = values[plan.n + 2]
  for i = 1, plan.n do
    if not plan.twins[i] then add_past(plan[i], values[1], values[i + 1], lease) end
  end
end

local function charge(plan, values)
  for i = 1, plan.n do
    if not plan.twins[i] then add_past(plan[i], values[1], values[i + 1], nil) end
  end
end

local OPS = { reserve, settle, renew, hold, charge, answer_sums }

-- How the body of an operation is laid out, by code, cells and leases.
local formats = {}
local function format_of(code, n, leased)
  local name = code * 1024 + n * 2 + (leased and 1 or 0)
  local format = formats[name]
  if format == nil then
    local lease, costs = leased and 'c16' or '', string.rep('d', n)
    if code == 1 then format = '<' .. costs .. lease .. costs
    elseif code == 2 then format = '<d' .. costs .. costs .. lease
    elseif code == 3 then format = '<' .. lease
    elseif code == 4 then format = '<d' .. costs .. lease
    elseif code == 5 then format = '<d' .. costs
    else format = false end
    formats[name] = format
  end
  return format
end

local none = {}
local function read_plan()
  local n
  n, pos = unpack_at('B', packed, pos)
  local amounts, overdrafts = {}, {}
  local looking, looks = nil, 0
  local plan = { n = n, amounts = amounts, overdrafts = overdrafts, twins = none,
    edges = none, looks = none, leased = false }
  for i = 1, n do
    local kind, window, amount, overdraft, key
    kind, window, amount, overdraft, key, pos = unpack_at('<BdddHc0', packed, pos)
    amounts[i], overdrafts[i] = amount, overdraft
    if kind >= 32 then
      looking, looks, kind = looking or {}, looks + 1, kind - 32
      looking[looks] = i
    end
    if kind >= 16 then
      if plan.edges == none then plan.edges = {} end
      plan.edges[i], kind = true, kind - 16
    end
    if kind >= 8 then
      if plan.twins == none then plan.twins = {} end
      plan.twins[i], kind = true, kind - 8
    end
    local cell = cells[key]
    if not cell then
      -- Every field at once: a table that grows is built again at each step.
      cell = {
        key = key, kind = kind % 4, firm = kind >= 4, window = window, sum = false,
        width = 0, index = 0, last = 0, open = 0, earlier = 0, epoch = epoch_now,
        changed = false, fresh = false, writes = false, ring = false,
      }
      cells[key] = cell
    end
    if cell.kind == 2 then plan.leased = true end
    plan[i] = cell
  end
  if looking then
    plan.looks = {}
    for j = 1, looks do plan.looks[looking[j]] = n - looks + j end
  end
  return plan
end

local plans = {}
for i = 1, plan_count do plans[i] = read_plan() end
local empty = pos > size
while pos <= size do
  local code, index
  code, index, pos = unpack_at('<BH', packed, pos)
  local plan = plans[index + 1]
  local format = format_of(code, plan.n, plan.leased)
  if format then
    local values = { unpack_at(format, packed, pos) }
    pos = values[#values]
    OPS[code](plan, values)
  else
    OPS[code](plan)
  end
end

if not empty then
  local note = pack('<ddd', seq, seq, now) .. table.concat(flags)
  call('SET', KEYS[1], note, 'EX', STREAM_TTL_S)
end
for i = 1, changed_count do
  local cell = changed[i]
  -- An empty counter is as good as none.
  if cell.kind ~= 2 and cell.sum == 0 then
    call('DEL', cell.key)
  else
    SAVE[cell.kind](cell)
  end
end
return out
