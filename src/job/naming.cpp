#include "job/naming.h"

#include <algorithm>
#include <set>

#include "adapter/dialect.h"
#include "adapter/stack.h"
#include "job/unite.h"

namespace lego {
namespace {

Error fail(Code code, std::string detail) { return {code, std::move(detail), {}, {}, {}}; }

std::string listed(const std::set<Dialect>& dialects) {
  std::string text;
  for (const Dialect dialect : dialects)
    text += (text.empty() ? "" : ", ") + std::string(infoOf(dialect).name);
  return text;
}

/// The dialect whose names are the canonical ones.
Dialect canonicalDialect(Naming naming) {
  return naming == Naming::Transformers ? Dialect::Peft : Dialect::Diffusers;
}

}  // namespace

Result<WrittenName> NamedModules::writtenName(const PlannedModule& module) const {
  using Kind = WrittenName::Kind;
  const std::string& path = module.path;
  if (areNative)
    return module.experts > 0 ? WrittenName{Kind::Expert, stackOf(path), module.expert, module.experts}
                              : WrittenName{Kind::Whole, path};
  if (auto stack = stackIn(dialect, path))
    return WrittenName{Kind::Expert, std::move(stack->tensor), stack->expert, module.experts};
  if (dialect == Dialect::Gguf && path == "lm_head" && base && base->tiedOutput) {
    return fail(Code::badFormat,
                "the base model's output layer is its token embedding, so llama.cpp has no tensor for an "
                "adapter of lm_head");
  }
  if (auto name = nameIn(dialect, path, families)) return WrittenName{Kind::Whole, std::move(*name)};
  if (auto fused = fusedIn(dialect, path, module.in, module.out, families))
    return WrittenName{Kind::Fused, std::move(fused->name), 0, 0, std::move(fused->rows), fused->total};
  return fail(Code::badFormat,
              "the module " + shownName(path) + " has no known name in the format " + infoOf(dialect).name);
}

Result<uint32_t> NamedModules::writtenHeads(const std::string& name, uint64_t rows) const {
  // Adapters that are all of llama.cpp's order stay in it.
  if (areNative || dialect != Dialect::Gguf) return 0u;
  return rowHeadsOf(name, rows, architecture, base);
}

namespace {

/// The architecture that a GGUF result names: the inputs' own, or the base model's.
Result<std::string> architectureOf(std::span<const AdapterFile> adapters, const BaseModel* base) {
  std::string architecture = base ? base->architecture : std::string();
  for (const AdapterFile& adapter : adapters) {
    if (adapter.catalogue.dialect != Dialect::Gguf) continue;
    const std::string& own = adapter.catalogue.info.architecture;
    if (!architecture.empty() && own != architecture)
      return failAt(
          Code::mixedDialects,
          "the adapter is for models of architecture " + shownName(own) + ", not " + shownName(architecture),
          adapter, {});
    architecture = own;
  }
  if (architecture.empty())
    return fail(Code::baseMissing,
                "a GGUF adapter names the architecture of its base model: give that model's config.json or "
                "GGUF file");
  return architecture;
}

/// Sets the modules of all adapters under canonical names. `keepsFused`: as in canonicalModules().
Status setCanonical(NamedModules& named, std::span<const AdapterFile> adapters, bool keepsFused) {
  named.modules.clear();
  for (const AdapterFile& adapter : adapters) {
    auto canonical = canonicalModules(adapter.catalogue, named.base, keepsFused);
    if (!canonical) {
      Error error = canonical.error();
      error.file = adapter.file;
      return error;
    }
    named.families = named.modules.empty() ? canonical->families : named.families & canonical->families;
    if (named.families == 0)
      return failAt(Code::mixedDialects, "the adapter is of another model than those before it", adapter, {});
    named.modules.push_back(std::move(canonical->modules));
  }
  return {};
}

/// Whether there are modules that the result has only as rows of others.
bool hasParts(const NamedModules& named) {
  return std::ranges::any_of(named.modules, [&](const std::vector<AdapterModule>& modules) {
    return std::ranges::any_of(modules, [&](const AdapterModule& module) {
      return fusedIn(named.dialect, module.path, module.in, module.out, named.families).has_value();
    });
  });
}

}  // namespace

Result<NamedModules> nameModules(std::span<const AdapterFile> adapters, const Recipe& recipe,
                                 std::vector<std::string>& notices) {
  std::set<Dialect> given;
  std::set<Naming> namings;
  for (const AdapterFile& adapter : adapters) {
    given.insert(adapter.catalogue.dialect);
    namings.insert(infoOf(adapter.catalogue.dialect).naming);
  }
  if (namings.size() > 1) {
    const Naming first = infoOf(adapters.front().catalogue.dialect).naming;
    const auto other = std::ranges::find_if(adapters, [&](const AdapterFile& adapter) {
      return infoOf(adapter.catalogue.dialect).naming != first;
    });
    return failAt(Code::mixedDialects,
                  "adapters of language models and of image models cannot be merged: " + listed(given),
                  *other, {});
  }
  NamedModules named;
  named.dialect = given.size() == 1 ? *given.begin() : canonicalDialect(*namings.begin());
  if (recipe.format != "same") {
    const auto asked = dialectOf(recipe.format);
    if (!asked) return fail(Code::badFormat, "there is no format " + shownName(recipe.format));
    if (infoOf(*asked).naming != *namings.begin()) {
      return failAt(
          Code::badFormat,
          "the format " + recipe.format + " names other modules than adapters of " + listed(given) + " have",
          adapters.front(), {});
    }
    named.dialect = *asked;
  } else if (given.size() > 1) {
    notices.push_back("the adapters are of several dialects (" + listed(given) +
                      "): the result is written as " + infoOf(named.dialect).name);
  }
  named.base = recipe.base ? &*recipe.base : nullptr;
  if (named.dialect == Dialect::Gguf) {
    auto architecture = architectureOf(adapters, named.base);
    if (!architecture) return architecture.error();
    named.architecture = std::move(*architecture);
  }
  named.areNative = given.size() == 1 && named.dialect == *given.begin();
  if (named.areNative) {
    for (const AdapterFile& adapter : adapters) named.modules.push_back(adapter.catalogue.modules);
    return named;
  }
  // Between dialects that fuse the same modules these stay whole: their parts would share A, and write it as
  // many times. Some files of kohya's have the parts one by one, though.
  const bool mayKeepFused = hasFusedModules(named.dialect) && std::ranges::all_of(given, hasFusedModules);
  if (Status done = setCanonical(named, adapters, mayKeepFused); !done) return done.error();
  if (mayKeepFused && hasParts(named)) {
    if (Status done = setCanonical(named, adapters, false); !done) return done.error();
  }
  return named;
}

}  // namespace lego
