// Headers and configs, divided by bytes 0xFF, as adapters of any dialect and size; behind them values of
// alphas, a base model and a recipe. What can be planned is laid out whole, and what it would write is an
// adapter again. A config that begins with "GGUF" stands for the metadata of a GGUF file, as JSON, whose
// tensors are those of the header.

#include <cmath>

#include "base/checked.h"
#include "base/random.h"
#include "format/gguf.h"
#include "format/json.h"
#include "plan.h"
#include "recipe.h"

namespace lego::fuzz {
namespace {

std::optional<DType> anyDtype(std::string_view name) {
  for (size_t i = 0; i < kDTypes; ++i) {
    if (nameOf(static_cast<DType>(i)) == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

/// A tensor as a header's entry describes it, without its place; nothing where it does not.
std::optional<TensorInfo> tensorOf(const std::string& name, const Json& entry) {
  if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape")) return std::nullopt;
  const Json &dtypeName = entry["dtype"], &shape = entry["shape"];
  const auto dtype =
      dtypeName.is_string() ? anyDtype(*dtypeName.get_ptr<const std::string*>()) : std::nullopt;
  if (!dtype || !shape.is_array()) return std::nullopt;
  TensorInfo tensor{name, *dtype, {}, 0, 0};
  for (const Json& side : shape) {
    if (!side.is_number_unsigned()) return std::nullopt;
    tensor.shape.push_back(side.get<uint64_t>());
  }
  return tensor;
}

/// The header with its tensors one after the other; as it stands where it is no JSON.
std::string withOffsets(Bytes text) {
  Json header = Json::parse(textOf(text), nullptr, /*allow_exceptions=*/false);
  if (!header.is_object()) return std::string(textOf(text));
  uint64_t position = 0;
  for (auto& [name, entry] : header.items()) {
    const auto tensor = tensorOf(name, entry);
    const auto bytes = tensor ? lego::bytesOf(tensor->dtype, tensor->shape) : std::nullopt;
    const auto end = bytes ? checkedAdd(position, *bytes) : bytes;
    if (!end) continue;
    entry["data_offsets"] = {position, *end};
    position = *end;
  }
  return header.dump(-1, ' ', false, Json::error_handler_t::replace);
}

constexpr std::string_view kGguf = "GGUF";

/// A GGUF file's header and size, out of a header and metadata in JSON.
struct GgufFile {
  std::string header;
  uint64_t size = 0;
};
std::optional<GgufFile> ggufOf(Bytes text, Bytes metadataText) {
  const Json tensors = Json::parse(textOf(text), nullptr, /*allow_exceptions=*/false);
  const Json values = Json::parse(textOf(metadataText), nullptr, /*allow_exceptions=*/false);
  if (!tensors.is_object() || !values.is_object()) return std::nullopt;
  Header header;
  for (const auto& [name, entry] : tensors.items()) {
    if (auto tensor = tensorOf(name, entry)) header.tensors.push_back(std::move(*tensor));
  }
  std::vector<std::pair<std::string, gguf::Value>> metadata;
  for (const auto& [key, value] : values.items()) {
    if (value.is_string()) metadata.emplace_back(key, *value.get_ptr<const std::string*>());
    if (value.is_number_float()) metadata.emplace_back(key, value.get<double>());
    if (value.is_number_unsigned()) metadata.emplace_back(key, value.get<uint64_t>());
    if (value.is_array()) metadata.emplace_back(key, gguf::Array{gguf::ValueType::UInt32, 1, {1}});
  }
  const auto bytes = gguf::writeHeader(header, metadata);
  if (!bytes) return std::nullopt;
  return GgufFile{*bytes, header.tensors.empty() ? bytes->size() : header.tensors.back().end};
}

/// Whether it was added.
bool addTo(Session& session, Bytes header, uint64_t fileSize, std::optional<std::string_view> config) {
  const Status added = session.addAdapter({"adapter", "file", "config"}, header, fileSize, config);
  if (!added) {
    checkError(added.error());
    return false;
  }
  const auto container = readContainer(header, fileSize);
  requireOk(container, "what was added can be read");
  checkTensors(container->header, session.adapters().back().catalogue);
  return true;
}

void addPieces(Session& session, Bytes text, Bytes configText) {
  if (textOf(configText).starts_with(kGguf)) {
    if (const auto file = ggufOf(text, configText.subspan(kGguf.size())))
      addTo(session, bytesOf(file->header), file->size, std::nullopt);
    return;
  }
  const auto config = configText.empty() ? std::nullopt : std::optional(textOf(configText));
  const auto add = [&](Bytes json) {
    const auto header = withPrefix(json);
    return addTo(session, header, wholeSize(header).value_or(header.size()), config);
  };
  if (!add(text)) add(bytesOf(withOffsets(text)));
}

/// Gives the last adapter its alphas. Whether these are sound.
bool readAlphas(Session& session, Input& input) {
  const auto alphas = session.adapters().back().catalogue.alphas;
  const auto reads = session.alphaReads();
  require(reads.size() == alphas.size(), "every alpha is read");
  std::vector<std::byte> bytes;
  std::vector<float> values;
  for (size_t i = 0; i < alphas.size(); ++i) {
    const auto value = takeAlpha(input, alphas[i].tensor.dtype);
    require(reads[i].offset == alphas[i].tensor.begin && reads[i].length == value.size() &&
                reads[i].at == bytes.size(),
            "an alpha is read from its place");
    bytes.insert(bytes.end(), value.begin(), value.end());
    toFloatRef(alphas[i].tensor.dtype, value.data(), 1, &values.emplace_back());
  }
  const bool sound = std::ranges::all_of(values, [](float x) { return std::isfinite(x) && x != 0; });
  const Status set = session.setAlphas(bytes);
  if (!set) checkError(set.error());
  require(static_cast<bool>(set) == sound, "alphas are numbers other than zero");
  for (size_t i = 0; i < alphas.size() && sound; ++i) {
    const AdapterModule& module = session.adapters().back().catalogue.modules[alphas[i].module];
    require(module.alphaRank > 0 && (module.expanded || module.alphaRank == static_cast<double>(module.rank)),
            "a pair's alpha is for its rank");
    require(module.alpha == values[i] && module.scale == module.alpha / module.alphaRank,
            "alpha over rank is the scale");
  }
  return sound;
}

}  // namespace
}  // namespace lego::fuzz

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t maxSize);

/// Changes one piece, or gives an adapter a twin: of adapters that are all changed at once, none is left
/// whole.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t maxSize, unsigned seed) {
  using namespace lego::fuzz;
  lego::Random random(seed);
  std::vector<std::vector<uint8_t>> parts;
  for (const Bytes part : pieces(std::as_bytes(std::span(data, size)))) {
    const auto* begin = reinterpret_cast<const uint8_t*>(part.data());
    parts.emplace_back(begin, begin + part.size());
  }
  const uint64_t choice = random.below(8);
  if (choice == 0) return LLVMFuzzerMutate(data, size, maxSize);
  if (choice == 1 && parts.size() > 2) {
    const auto pair = static_cast<std::ptrdiff_t>(2 * random.below((parts.size() - 1) / 2));
    const std::vector<std::vector<uint8_t>> twin(parts.begin() + pair, parts.begin() + pair + 2);
    parts.insert(parts.begin(), twin.begin(), twin.end());
  } else {
    auto& part = choice < 4 ? parts.back() : parts[random.below(parts.size())];
    const size_t length = part.size();
    part.resize(length + maxSize - size);
    if (part.empty()) return LLVMFuzzerMutate(data, size, maxSize);  // nothing to change, and no room
    part.resize(LLVMFuzzerMutate(part.data(), length, part.size()));
  }
  std::vector<uint8_t> result;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) result.push_back(0xFF);
    result.insert(result.end(), parts[i].begin(), parts[i].end());
  }
  if (result.empty() || result.size() > maxSize) return LLVMFuzzerMutate(data, size, maxSize);
  std::ranges::copy(result, data);
  return result.size();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lego;
  using namespace lego::fuzz;
  const auto parts = pieces(std::as_bytes(std::span(data, size)));
  if (parts.size() > 11) return 0;
  Input input(parts.size() % 2 == 1 ? parts.back() : Bytes());
  Session session(2);
  for (size_t i = 0; i + 1 < parts.size(); i += 2) {
    const size_t before = session.adapters().size();
    addPieces(session, parts[i], parts[i + 1]);
    if (session.adapters().size() == before) continue;
    checkCatalogue(session.adapters().back(), false);
    if (!readAlphas(session, input)) return 0;
    checkCatalogue(session.adapters().back(), true);
  }

  std::vector<std::string> globs{"*", "*q_proj", "?*.v_proj"};
  if (!session.adapters().empty() && !session.adapters()[0].catalogue.modules.empty())
    globs.push_back(session.adapters()[0].catalogue.modules[0].path);
  const Recipe recipe = takeRecipe(input, session.adapters().size(), globs);
  setBase(session, takeBase(input));
  const Status planned = session.makePlan(recipe);
  if (!planned) {
    checkError(planned.error());
    return 0;
  }
  checkLayout(session.plan(), session.adapters());
  checkOutput(session.plan());
  return 0;
}
