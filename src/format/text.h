// Text in binary headers.
#pragma once

#include <string_view>

namespace lego {

/// Whether text is UTF-8 (RFC 3629: shortest forms, no surrogates, up to U+10FFFF) without NUL.
bool isText(std::string_view text);

}  // namespace lego
