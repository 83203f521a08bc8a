-- For wrk: POST the photo in $PHOTO, as the body or in the form field $FIELD, and print figures as JSON.
local photo = io.open(os.getenv("PHOTO"), "rb"):read("*a")
local field = os.getenv("FIELD") or ""

wrk.method = "POST"
if field == "" then
  wrk.body = photo
  wrk.headers["Content-Type"] = "image/jpeg"
else
  wrk.body = "--border\r\nContent-Disposition: form-data; name=\"" .. field
    .. "\"; filename=\"photo.jpg\"\r\nContent-Type: image/jpeg\r\n\r\n" .. photo .. "\r\n--border--\r\n"
  wrk.headers["Content-Type"] = "multipart/form-data; boundary=border"
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"photos_per_second": %.2f, "p50": %.2f, "p95": %.2f, "p99": %.2f, "errors": %d}\n',
    (summary.requests - errors.status) / summary.duration * 1e6,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
