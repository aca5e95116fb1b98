// strtod() for the modules, by JavaScript, which rounds as it must too. The C library's own works in 128-bit
// floating point, which WebAssembly has not: 12 KB.

#include <emscripten/em_js.h>

#include <cmath>
#include <cstring>

// clang-format off
EM_JS(double, lego_number, (const char* text), { return Number(UTF8ToString(text)); });
// clang-format on

/// For texts that are a decimal number as a whole, or none: the JSON library's tokens, and options
/// (merge/options.cpp).
extern "C" double strtod(const char* text, char** end) {
  const double value = lego_number(text);
  if (end) *end = const_cast<char*>(text) + (std::isnan(value) ? 0 : std::strlen(text));
  return value;
}

// The C++ library names the others of the family, which brings in the C library's file with all three.
extern "C" float strtof(const char* text, char** end) { return static_cast<float>(strtod(text, end)); }
extern "C" long double strtold(const char* text, char** end) { return strtod(text, end); }
