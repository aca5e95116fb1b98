#include "format/json.h"

#include <set>
#include <string>
#include <vector>

#include "base/limits.h"

namespace lego {

size_t findNul(std::string_view text) { return text.find('\0'); }

Result<Json> parseJson(std::string_view text, Code code) {
  std::vector<std::set<std::string>> keys;  // of each object that is open
  std::string problem;
  // The callback cannot stop the parser; it runs to the end in linear time, and the first problem counts.
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > static_cast<int>(limits::kJsonDepth) && problem.empty()) problem = "is nested too deeply";
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && problem.empty()) {
      const auto* name = parsed.get_ptr<const Json::string_t*>();
      if (!keys.back().insert(*name).second) problem = "has the key " + shownName(*name) + " twice";
    }
    return true;
  };
  Json value = Json::parse(text.begin(), text.end(), watch, /*allow_exceptions=*/false);
  if (problem.empty() && (value.is_discarded() || findNul(text) != std::string_view::npos))
    problem = "is not valid JSON";
  if (!problem.empty()) return Error{code, "the JSON document " + problem, {}, {}, {}};
  return value;
}

std::string jsonQuoted(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace lego
