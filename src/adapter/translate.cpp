#include "adapter/translate.h"

#include "adapter/dialect.h"

namespace lego {

Result<std::vector<AdapterModule>> canonicalModules(const Catalogue& catalogue) {
  if (infoOf(catalogue.dialect).naming == Naming::Transformers || catalogue.dialect == Dialect::Diffusers)
    return catalogue.modules;
  return Error{Code::mixedDialects, "no table has the module", {}, catalogue.modules.front().a.name, {}};
}

std::optional<std::string> nameIn(Dialect dialect, const std::string& canonical) {
  if (infoOf(dialect).naming == Naming::Transformers || dialect == Dialect::Diffusers) return canonical;
  return std::nullopt;
}

}  // namespace lego
