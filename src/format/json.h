// JSON text as values, for small trusted-size documents; the library stays behind this header.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "base/result.h"

namespace lego {

/// Keeps the order of keys, which PEFT's patterns depend on.
using Json = nlohmann::ordered_json;

/// Where a text has a NUL byte, or npos. JSON has none, but to the library it is the end of the text, and
/// what follows would pass unread.
size_t findNul(std::string_view text);

/// What a document is made of, one piece after the other.
using JsonEvents = nlohmann::json_sax<Json>;

/// Reads a document as events. True if it is JSON and `events` wanted all of it. The parser is compiled once,
/// for all readers.
bool readJson(std::string_view text, JsonEvents& events);

/// Parses a whole document. Refuses, with `code`: invalid JSON or UTF-8, NUL bytes, duplicate keys, nesting
/// deeper than limits::kJsonDepth.
Result<Json> parseJson(std::string_view text, Code code);

/// A string as a JSON literal, quotes included. Invalid UTF-8 is replaced by U+FFFD.
std::string jsonQuoted(const std::string& text);

/// A number with as few digits as tell it from all others.
std::string jsonNumber(double value);

}  // namespace lego
