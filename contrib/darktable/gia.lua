--[[
gia for darktable: enhance the selected RAW photos from the lighttable.

Adds the action "gia enhance" to the module "selected image[s]". It runs `gia enhance` on each
selected photo, imports the picture and groups it with its photo. Originals are never touched.

Install: see README.md beside this file. Needs darktable 4.0 or newer, and gia.

SPDX-License-Identifier: Apache-2.0
]]

local dt = require "darktable"

local NAME = "gia_enhance"
local LABEL = "gia enhance"
local IS_WINDOWS = dt.configuration.running_os == "windows"

dt.preferences.register(
  "gia", "command", "string", "gia: command",
  "the command that runs gia, such as /home/me/.venv/bin/gia", "gia"
)
dt.preferences.register(
  "gia", "format", "enum", "gia: format",
  "tif and png are finished pictures; a dng can still be developed", "tif", "tif", "png", "dng"
)
dt.preferences.register(
  "gia", "options", "string", "gia: more options",
  "more options of gia enhance, such as --strength 0.8", ""
)

-- A word as the shell takes it, whatever is in it.
local function quoted(text)
  if IS_WINDOWS then
    return '"' .. text:gsub('"', '') .. '"'
  end
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

local function contents(path)
  local file = io.open(path, "rb")
  if not file then return "" end
  local text = file:read("a")
  file:close()
  return text
end

-- ---------------------------------------------------------------- JSON

local ESCAPES = {b = "\b", f = "\f", n = "\n", r = "\r", t = "\t"}

local decode_value

local function decode_string(text, at)
  local parts = {}
  at = at + 1
  while true do
    local stop = text:find('["\\]', at)
    if not stop then error("a string without an end") end
    parts[#parts + 1] = text:sub(at, stop - 1)
    if text:sub(stop, stop) == '"' then return table.concat(parts), stop + 1 end
    local letter = text:sub(stop + 1, stop + 1)
    at = stop + 2
    if letter == "u" then
      local code = tonumber(text:sub(at, at + 3), 16)
      at = at + 4
      if code >= 0xD800 and code < 0xDC00 and text:sub(at, at + 1) == "\\u" then
        local low = tonumber(text:sub(at + 2, at + 5), 16)
        code = 0x10000 + (code - 0xD800) * 0x400 + (low - 0xDC00)
        at = at + 6
      end
      if code >= 0xDC80 and code <= 0xDCFF then
        parts[#parts + 1] = string.char(code - 0xDC00)  -- a byte of a name that is no UTF-8
      else
        parts[#parts + 1] = utf8.char(code)
      end
    else
      parts[#parts + 1] = ESCAPES[letter] or letter
    end
  end
end

-- The items of an array or an object; `read` takes one and returns where it ends.
local function decode_items(text, at, close, read)
  at = text:match("^%s*()", at + 1)
  if text:sub(at, at) == close then return at + 1 end
  while true do
    at = text:match("^%s*()", read(at))
    local letter = text:sub(at, at)
    if letter == close then return at + 1 end
    if letter ~= "," then error("neither , nor " .. close) end
    at = text:match("^%s*()", at + 1)
  end
end

function decode_value(text, at)
  at = text:match("^%s*()", at)
  local letter = text:sub(at, at)
  local result = {}
  if letter == '"' then
    return decode_string(text, at)
  elseif letter == "[" then
    return result, decode_items(text, at, "]", function(start)
      local value, stop = decode_value(text, start)
      result[#result + 1] = value
      return stop
    end)
  elseif letter == "{" then
    return result, decode_items(text, at, "}", function(start)
      local key, colon = decode_string(text, start)
      local value, stop = decode_value(text, text:match("^%s*:()", colon))
      result[key] = value
      return stop
    end)
  end
  for word, value in pairs({["true"] = true, ["false"] = false}) do
    if text:sub(at, at + #word - 1) == word then return value, at + #word end
  end
  if text:sub(at, at + 3) == "null" then return nil, at + 4 end
  local number, stop = text:match("^(%-?[%d.eE+-]+)()", at)
  if not number then error("no value") end
  return tonumber(number), stop
end

-- Read what `gia enhance --json` prints about one photo; nil when it is no report.
local function decode_report(text)
  local ok, report = pcall(decode_value, text, 1)
  if ok and type(report) == "table" and type(report.files) == "table" then
    return report.files[1]
  end
  return nil
end

-- ---------------------------------------------------------------- the work

-- Enhance one photo; returns the pictures' paths, or nil and why there are none.
local function run_gia(photo)
  local command = dt.preferences.read("gia", "command", "string")
  local format = dt.preferences.read("gia", "format", "enum")
  local options = dt.preferences.read("gia", "options", "string")
  local out, err = os.tmpname(), os.tmpname()
  local line = table.concat({
    quoted(command), "enhance", quoted(photo), "--json", "--on-exists skip",
    "--format", format, options, ">", quoted(out), "2>", quoted(err)
  }, " ")
  if IS_WINDOWS then line = '"' .. line .. '"' end
  local code = dt.control.execute(line)
  local report, said = decode_report(contents(out)), contents(err)
  os.remove(out)
  os.remove(err)
  if report and #report.outputs > 0 then return report.outputs end
  if report and report.error then return nil, report.error.message end
  if code == 127 or code == 127 * 256 or code == 9009 then  -- not found, by exit or wait status
    return nil, "'" .. command .. "' was not found; set it in preferences, Lua options"
  end
  local last = said:match("([^\r\n]+)%s*$") or ("exit code " .. tostring(code))
  return nil, last
end

-- Import a picture and put it into the group of its photo.
local function import(path, photo)
  local picture = dt.database.import(path)
  if not picture then return false end
  picture:group_with(photo.group_leader)
  return true
end

local function enhance(photos)
  local done, why, stopped = 0, {}, false
  local job = dt.gui and dt.gui.create_job(LABEL, true, function() stopped = true end)
  for number, photo in ipairs(photos) do
    if stopped then break end
    local pictures, reason = run_gia(photo.path .. (IS_WINDOWS and "\\" or "/") .. photo.filename)
    for _, path in ipairs(pictures or {}) do
      if not import(path, photo) then reason = "darktable could not import " .. path end
    end
    if reason then
      why[#why + 1] = photo.filename .. ": " .. reason
      dt.print_error("gia: " .. why[#why])
    else
      done = done + 1
    end
    if job then job.percent = number / #photos end
  end
  if job then job.valid = false end
  local words = string.format("gia: %d of %d enhanced", done, #photos)
  if #why > 0 then words = words .. "; " .. why[1] end
  if #why > 1 then words = words .. string.format(" (and %d more)", #why - 1) end
  dt.print(words)
  return done, why
end

local function destroy()
  if dt.gui then dt.gui.libs.image.destroy_action(NAME) end
end

if dt.gui then
  dt.gui.libs.image.register_action(NAME, LABEL, function(_, photos) enhance(photos) end,
    "clean, bright pictures of RAW photos taken in near darkness, grouped with them")
end

-- `enhance` is what other scripts may call; `destroy` is for the script manager.
return {enhance = enhance, decode_report = decode_report, destroy = destroy}
