#include "merge/options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <optional>

#include "format/json.h"

namespace lego {
namespace {

std::optional<double> parseInteger(const std::string& text) {
  uint64_t value = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return static_cast<double>(value);
}

/// Decimal numbers only: strtod would also take "inf", "nan", hexadecimal and leading space.
std::optional<double> parseNumber(const std::string& text) {
  if (text.empty() || text.find_first_not_of("0123456789+-.eE") != std::string::npos) return std::nullopt;
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (end != text.c_str() + text.size()) return std::nullopt;
  return value;
}

/// A bound or default as people write it.
std::string shownNumber(double value) {
  return value == std::floor(value) ? std::to_string(static_cast<int64_t>(value)) : jsonNumber(value);
}

std::string expectation(const OptionInfo& info) {
  if (info.type != OptionInfo::Type::Choice) {
    return std::string(info.type == OptionInfo::Type::Integer ? "a whole number" : "a number") + " from " +
           shownNumber(info.minimum) + " to " + shownNumber(info.maximum);
  }
  std::string text;
  for (const auto& choice : splitChoices(info.choices)) text += (text.empty() ? "" : " or ") + choice;
  return text;
}

}  // namespace

std::vector<std::string> splitChoices(std::string_view choices) {
  std::vector<std::string> parts(1);
  for (const char c : choices) {
    if (c == '|') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

Result<Options> Options::read(std::string_view method, std::span<const OptionInfo> infos,
                              std::span<const OptionValue> values) {
  Options options;
  for (const OptionInfo& info : infos) {
    Entry entry{info.name, {}, info.standard};
    if (info.type == OptionInfo::Type::Choice) entry.text = splitChoices(info.choices).front();
    options.entries_.push_back(std::move(entry));
  }
  for (const OptionValue& value : values) {
    const auto info = std::ranges::find(infos, value.name, &OptionInfo::name);
    if (info == infos.end()) {
      return Error{Code::badOption,
                   "the method " + std::string(method) + " has no option " + shownName(value.name),
                   {},
                   {},
                   {}};
    }
    Entry& entry = options.entries_[static_cast<size_t>(info - infos.begin())];
    bool valid = false;
    if (info->type == OptionInfo::Type::Choice) {
      const auto choices = splitChoices(info->choices);
      valid = std::ranges::find(choices, value.text) != choices.end();
      entry.text = value.text;
    } else if (const auto number = info->type == OptionInfo::Type::Integer ? parseInteger(value.text)
                                                                           : parseNumber(value.text)) {
      entry.number = *number;
      valid = entry.number >= info->minimum && entry.number <= info->maximum;
    }
    if (!valid)
      return Error{
          Code::badOption,
          "the option " + value.name + " must be " + expectation(*info) + ", not " + shownName(value.text),
          {},
          {},
          {}};
  }
  return options;
}

const Options::Entry& Options::find(std::string_view name) const {
  const auto entry = std::ranges::find(entries_, name, &Entry::name);
  // Only a method that asks for an option it did not register gets here.
  if (entry == entries_.end()) std::abort();
  return *entry;
}

bool Options::has(std::string_view name) const {
  return std::ranges::find(entries_, name, &Entry::name) != entries_.end();
}

double Options::number(std::string_view name) const { return find(name).number; }

const std::string& Options::choice(std::string_view name) const { return find(name).text; }

}  // namespace lego
