#include "format/json.h"

#include <set>
#include <string>
#include <vector>

#include "base/limits.h"

namespace lego {
namespace {

/// Makes a value of events, and stops at the first thing that the library would let pass.
class TreeBuilder final : public JsonEvents {
 public:
  Json root;
  std::string problem = "is not valid JSON";

  bool null() override { return add(nullptr) != nullptr; }
  bool boolean(bool value) override { return add(value) != nullptr; }
  bool number_integer(number_integer_t value) override { return add(value) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return add(value) != nullptr; }
  bool number_float(number_float_t value, const string_t&) override { return add(value) != nullptr; }
  bool string(string_t& value) override { return add(std::move(value)) != nullptr; }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Json::value_t::object); }
  bool start_array(std::size_t) override { return open(Json::value_t::array); }
  bool end_object() override { return open_.pop_back(), true; }
  bool end_array() override { return open_.pop_back(), true; }
  bool key(string_t& name) override {
    if (!open_.back().keys.insert(name).second) return refuse("has the key " + shownName(name) + " twice");
    key_ = std::move(name);
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;
  }

 private:
  struct Open {
    Json* value;
    std::set<std::string> keys;  // of an object
  };

  bool refuse(std::string why) {
    problem = std::move(why);
    return false;
  }

  /// Where the value now lies, or null. It stays there while it is open: what holds it grows only afterwards.
  Json* add(Json value) {
    if (open_.size() > limits::kJsonDepth) return refuse("is nested too deeply"), nullptr;
    if (open_.empty()) return &(root = std::move(value));
    Json& parent = *open_.back().value;
    if (auto* array = parent.get_ptr<Json::array_t*>()) return &array->emplace_back(std::move(value));
    // Behind the others without a look at them: the key is new.
    auto& object = *parent.get_ptr<Json::object_t*>();
    return &object.Json::object_t::Container::emplace_back(std::move(key_), std::move(value)).second;
  }

  bool open(Json::value_t type) {
    Json* value = add(type);
    if (value) open_.push_back({value, {}});
    return value != nullptr;
  }

  std::vector<Open> open_;
  std::string key_;
};

}  // namespace

size_t findNul(std::string_view text) { return text.find('\0'); }

bool readJson(std::string_view text, JsonEvents& events) {
  return Json::sax_parse(text.begin(), text.end(), &events);
}

Result<Json> parseJson(std::string_view text, Code code) {
  TreeBuilder builder;
  if (readJson(text, builder)) {
    if (findNul(text) == std::string_view::npos) return std::move(builder.root);
    builder.problem = "is not valid JSON";
  }
  return Error{code, "the JSON document " + builder.problem, {}, {}, {}};
}

std::string jsonQuoted(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string jsonNumber(double value) { return Json(value).dump(); }

}  // namespace lego
