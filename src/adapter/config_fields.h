// Fields of an adapter's config, with their types checked.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>

#include "base/limits.h"
#include "format/json.h"

namespace lego {

/// Reads fields of one object; remembers the first that has the wrong type.
class ConfigFields {
 public:
  explicit ConfigFields(const Json& object) : object_(object) {}

  const Json* find(const char* name) const {
    const auto it = object_.find(name);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }
  bool flag(const char* name) {
    const Json* value = find(name);
    if (!value) return false;
    if (!value->is_boolean()) return wrong(name, "true or false"), false;
    return *value->get_ptr<const bool*>();
  }
  std::string text(const char* name, const char* fallback = "") {
    const Json* value = find(name);
    if (!value) return fallback;
    if (!value->is_string()) return wrong(name, "a string"), fallback;
    return *value->get_ptr<const std::string*>();
  }
  double number(const char* name, double fallback) {
    const Json* value = find(name);
    if (!value) return fallback;
    if (!value->is_number() || !std::isfinite(value->get<double>())) return wrong(name, "a number"), fallback;
    return value->get<double>();
  }
  /// True where a list or an object has something in it, or another value is neither null nor false.
  bool isSet(const char* name) const {
    const Json* value = find(name);
    if (!value) return false;
    if (value->is_structured()) return !value->empty();
    return !(value->is_boolean() && !*value->get_ptr<const bool*>());
  }
  void wrong(const std::string& name, const std::string& expected) {
    if (problem.empty()) problem = "the field " + shownName(name) + " must be " + expected;
  }

  std::string problem;

 private:
  const Json& object_;
};

/// A rank as the config may write it: an integer of any JSON spelling, such as 8 or 8.0.
inline std::optional<uint64_t> asRank(double value) {
  if (value < 0 || value > static_cast<double>(limits::kFactorSide) || value != std::floor(value))
    return std::nullopt;
  return static_cast<uint64_t>(value);
}

}  // namespace lego
