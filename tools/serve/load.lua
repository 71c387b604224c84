-- What wrk sends and checks: prompts in turns with `echo`, so that every answer names its prompt, compared with the answer
-- that each prompt had alone. Counts go to stdout as one line of JSON at the end.

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  local cases = dofile(args[1])
  expected, bodies = {}, {}
  for i, case in ipairs(cases) do
    bodies[i], expected[case.text] = case.body, true
  end
  next_case, right, wrong, failed, example = 0, 0, 0, 0, ""
end

function request()
  next_case = next_case % #bodies + 1
  return wrk.format("POST", "/v1/completions", { ["Content-Type"] = "application/json" }, bodies[next_case])
end

function response(status, headers, body)
  local text = body:match('"choices":%[{"index":0,"text":(".-[^\\]")[,}]')
  if status ~= 200 then
    failed = failed + 1
    example = tostring(status)
  elseif text and expected[text] then
    right = right + 1
  else
    wrong = wrong + 1
    example = body:sub(1, 300)
  end
end

function done(summary, latency)
  local total = { right = 0, wrong = 0, failed = 0 }
  local shown = ""
  for _, thread in ipairs(threads) do
    for name in pairs(total) do
      total[name] = total[name] + thread:get(name)
    end
    shown = thread:get("example") ~= "" and thread:get("example") or shown
  end
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"right":%d,"wrong":%d,"failed":%d,"socket_errors":%d,"seconds":%.3f,"p50_ms":%.1f,"p99_ms":%.1f}\n',
    total.right, total.wrong, total.failed, errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
  if shown ~= "" then
    io.write("EXAMPLE ", shown, "\n")
  end
end
