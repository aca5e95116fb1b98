#include "base/result.h"

#include <iterator>

namespace lego {
namespace {

constexpr CodeInfo kCodes[] = {
#define LEGO_CODE(enumerator, name, sentence) {name, sentence},
#include "base/codes.def"
#undef LEGO_CODE
};

// Long enough for the longest module path of a real model (about 120 bytes), short enough for a terminal.
constexpr size_t kShownNameBytes = 160;

}  // namespace

size_t codeCount() { return std::size(kCodes); }

CodeInfo codeInfo(Code code) { return kCodes[static_cast<size_t>(code)]; }

std::string shownName(const std::string& name) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string text = "'";
  for (size_t i = 0; i < name.size(); ++i) {
    const auto byte = static_cast<unsigned char>(name[i]);
    // Cut only in front of a byte that starts a UTF-8 sequence.
    if (i >= kShownNameBytes && (byte & 0xC0) != 0x80) {
      text += "...";
      break;
    }
    if (byte < 0x20 || byte == 0x7F) {
      text += "\\x";
      text += kHex[byte >> 4];
      text += kHex[byte & 15];
    } else {
      text += name[i];
    }
  }
  return text + "'";
}

ErrorSlot::ErrorSlot(Error error) : error_(new Error(std::move(error))) {}

ErrorSlot::ErrorSlot(const ErrorSlot& other) : error_(other.error_ ? new Error(*other.error_) : nullptr) {}

void ErrorSlot::release() { delete error_; }

std::string describe(const Error& error) {
  std::string text;
  if (!error.file.empty()) text += shownName(error.file) + ": ";
  if (!error.tensor.empty()) text += "tensor " + shownName(error.tensor) + ": ";
  text += error.detail.empty() ? codeInfo(error.code).sentence : error.detail;
  if (error.offset) text += " (byte " + std::to_string(*error.offset) + ")";
  return text;
}

}  // namespace lego
