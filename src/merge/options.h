// Options of methods: described once, checked once, read by name.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace lego {

/// One option of a method.
struct OptionInfo {
  enum class Type { Integer, Number, Choice };

  const char* name;
  Type type;
  const char* choices;                ///< Choice: the values, separated by '|', the default first
  double minimum, maximum, standard;  ///< Integer and Number: bounds and default
  const char* sentence;
};

/// A value as a user gives it, in text: "10", "0.25", "l2".
struct OptionValue {
  std::string name;
  std::string text;
};

/// Every option of one method, checked, with defaults filled in.
class Options {
 public:
  /// Errors: bad_option, naming the option and what it takes.
  static Result<Options> read(std::string_view method, std::span<const OptionInfo> infos,
                              std::span<const OptionValue> values);

  /// Value of an Integer or Number option that the method has.
  double number(std::string_view name) const;
  bool has(std::string_view name) const;
  /// Whether a Choice option is "on".
  bool isOn(std::string_view name) const { return choice(name) == "on"; }
  /// Value of a Choice option that the method has.
  const std::string& choice(std::string_view name) const;

 private:
  struct Entry {
    std::string name;
    std::string text;
    double number = 0;
  };
  const Entry& find(std::string_view name) const;
  std::vector<Entry> entries_;
};

/// The values of a choice, in order.
std::vector<std::string> splitChoices(std::string_view choices);

}  // namespace lego
