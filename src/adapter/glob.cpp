#include "adapter/glob.h"

#include <cstddef>

namespace lego {

bool globMatches(std::string_view glob, std::string_view path) {
  size_t g = 0, p = 0;
  // Where to go on if what follows the last star does not fit: one byte further in the path.
  size_t afterStar = std::string_view::npos, retry = 0;
  while (p < path.size()) {
    if (g < glob.size() && glob[g] == '*') {
      afterStar = ++g;
      retry = p;
    } else if (g < glob.size() && (glob[g] == '?' || glob[g] == path[p])) {
      ++g, ++p;
    } else if (afterStar != std::string_view::npos) {
      g = afterStar;
      p = ++retry;
    } else {
      return false;
    }
  }
  while (g < glob.size() && glob[g] == '*') ++g;
  return g == glob.size();
}

}  // namespace lego
