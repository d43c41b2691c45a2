-- wrk: the same chat request over and over, as an SDK sends it.
-- Environment: PROMPT_BYTES, STREAM ("true"), KEY, NEW_HEADS ("1": no two heads alike).
local words = "which tide carries the boats out of the harbour today "
local prompt = string.rep(words, math.ceil(tonumber(os.getenv("PROMPT_BYTES")) / #words))
local body = string.format(
  '{"model":"gpt-4o-mini","messages":[{"role":"system","content":"You answer briefly."},' ..
  '{"role":"user","content":"%s"}],"max_tokens":256,"temperature":0.7,"stream":%s}',
  prompt, os.getenv("STREAM") or "false")

wrk.method = "POST"
wrk.body = body
wrk.headers["Authorization"] = "Bearer " .. os.getenv("KEY")
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json"
wrk.headers["User-Agent"] = "OpenAI/Python 1.99.0"
wrk.headers["X-Stainless-Lang"] = "python"

if os.getenv("NEW_HEADS") == "1" then
  -- The request is put together from two halves: wrk.format would cost the load's core
  -- more than the request itself.
  local first, second, count
  function init(args)
    local whole = wrk.format()
    local at = string.find(whole, "\r\n", 1, true)
    first, second = string.sub(whole, 1, at + 1), string.sub(whole, at)
    count = 0
  end
  function request()
    count = count + 1
    return first .. string.format("Traceparent: 00-%032x-%016x-01", count, count) .. second
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format("WRK %d %d %d %d %d %d\n",
    summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
