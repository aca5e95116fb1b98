// Any bytes as the beginning of a GGUF file, read piece by piece; or, where they do not begin as one, a
// header that is made out of them. What is accepted can be written and read again, and is at times an adapter
// or a base model.

#include <bit>
#include <cmath>
#include <map>
#include <set>

#include "base/limits.h"
#include "format/container.h"
#include "format/gguf.h"
#include "fuzz.h"
#include "plan.h"
#include "recipe.h"

namespace lego::fuzz {
namespace {

uint64_t alignmentOf(const gguf::Metadata& metadata) {
  return gguf::integerOf(metadata, "general.alignment").value_or(gguf::kAlignment);
}

/// The table as ggml reads it: tensors in order, each at the next aligned position.
void checkTable(const gguf::File& file, uint64_t headerBytes, uint64_t fileSize) {
  const uint64_t alignment = alignmentOf(file.metadata);
  require(alignment >= 8 && std::has_single_bit(alignment), "an alignment is a power of two");
  const auto padded = [&](uint64_t position) {
    return (Wide{position} + alignment - 1) / alignment * alignment;
  };
  std::set<std::string> names;
  Wide position = padded(headerBytes);
  for (const TensorInfo& tensor : file.header.tensors) {
    require(!tensor.name.empty() && tensor.name.size() <= 64, "a name is short");
    require(names.insert(tensor.name).second, "a name occurs once");
    require(tensor.begin == position, "a tensor begins at the next aligned position");
    require(tensor.end >= tensor.begin && tensor.end <= fileSize, "a tensor lies in its file");
    require(tensor.shape.size() <= 4, "shapes are short");
    require(std::ranges::count(tensor.shape, 0u) == 0, "no side is zero");
    require(tensor.shape.empty() || tensor.shape.back() % blockOf(tensor.dtype) == 0,
            "rows are whole blocks");
    require(bytesOf(tensor.dtype, tensor.shape) == tensor.end - tensor.begin,
            "bytes are as many as the shape asks for");
    position = padded(tensor.end);
  }
  require(file.header.metadata.empty(), "GGUF has metadata of its own");
  for (const auto& [key, value] : file.metadata) {
    require(!key.empty(), "a key is one");
    if (const auto* array = std::get_if<gguf::Array>(&value))
      require(array->integers.empty() || array->integers.size() == array->count, "an array is kept whole");
  }
}

bool same(const gguf::Value& x, const gguf::Value& y) {
  if (const auto* number = std::get_if<double>(&x)) {
    const auto* other = std::get_if<double>(&y);
    return other && std::bit_cast<uint64_t>(*number) == std::bit_cast<uint64_t>(*other);
  }
  if (const auto* number = std::get_if<float>(&x)) {
    const auto* other = std::get_if<float>(&y);
    return other && std::bit_cast<uint32_t>(*number) == std::bit_cast<uint32_t>(*other);
  }
  return x == y;
}

/// Whether a value can be written: of arrays, integers that were kept.
bool isKept(const gguf::Value& value) {
  const auto* array = std::get_if<gguf::Array>(&value);
  if (!array) return true;
  return array->integers.size() == array->count && array->element <= gguf::ValueType::Int32;
}

/// Writes what can be written of a header, and reads it again.
void checkRoundTrip(const gguf::File& file) {
  Header header = file.header;
  std::vector<std::pair<std::string, gguf::Value>> metadata;
  for (const auto& [key, value] : file.metadata) {
    if (key != "general.alignment" && isKept(value)) metadata.emplace_back(key, value);
  }
  const auto text = gguf::writeHeader(header, metadata);
  if (!text) {
    checkError(text.error());
    const bool hasLongName = std::ranges::any_of(
        file.header.tensors, [](const TensorInfo& tensor) { return tensor.name.size() > gguf::kNameBytes; });
    // Padding may reach beyond 64 bits.
    const bool isHuge = !file.header.tensors.empty() && file.header.tensors.back().end > UINT64_MAX / 2;
    require(text.error().code == Code::notExpressible ? hasLongName
                                                      : text.error().code == Code::sizeOverflow && isHuge,
            "what was read can be written");
    return;
  }
  const uint64_t fileSize = header.tensors.empty() ? text->size() : header.tensors.back().end;
  const auto back = gguf::readHeader(bytesOf(*text), fileSize);
  requireOk(back, "what was written can be read");
  require(back->file && back->needed == 0, "what was written is whole");
  checkTable(*back->file, text->size(), fileSize);
  require(back->file->metadata.size() == metadata.size(), "no key is lost");
  for (const auto& [key, value] : metadata) {
    const auto entry = back->file->metadata.find(key);
    require(entry != back->file->metadata.end() && same(entry->second, value), "a value comes back");
  }
  require(back->file->header.tensors.size() == header.tensors.size(), "tensors come back");
  for (size_t i = 0; i < header.tensors.size(); ++i) {
    const TensorInfo &written = header.tensors[i], &after = back->file->header.tensors[i];
    require(after.name == file.header.tensors[i].name && after.dtype == file.header.tensors[i].dtype &&
                after.shape == file.header.tensors[i].shape,
            "a tensor comes back");
    require(after.begin == written.begin && after.end == written.end, "the writer knows where tensors lie");
  }
}

/// A file's header, read as a caller does it: from a few bytes, then as many as are asked for.
struct Reading {
  std::optional<gguf::File> file;
  std::optional<Error> error;
  size_t bytes = 0;  // how many were looked at last
};

Reading readByPieces(Bytes start, uint64_t fileSize, size_t first) {
  Reading reading;
  reading.bytes = std::min(first, start.size());
  for (;;) {
    const Bytes piece = start.first(reading.bytes);
    auto progress = gguf::readHeader(piece, fileSize);
    if (piece.size() >= 4 && textOf(piece.first(4)) == "GGUF") {
      const auto needs = headerNeeds(piece, fileSize);
      require(static_cast<bool>(needs) == static_cast<bool>(progress), "both readers agree");
      if (needs)
        require(*needs == (progress->file ? piece.size() : progress->needed), "both ask for the same bytes");
    }
    if (!progress) {
      reading.error = progress.error();
      return reading;
    }
    if (progress->file) {
      require(progress->needed == 0, "a header that was read needs no more");
      reading.file = std::move(*progress->file);
      return reading;
    }
    const uint64_t needed = progress->needed;
    require(needed > piece.size() && needed <= fileSize, "more is asked for, and the file has it");
    require(needed >= 2 * piece.size() || needed == fileSize || needed == limits::kGgufHeaderBytes,
            "what is asked for doubles");
    // Of data behind the header there may be nothing here.
    if (piece.size() == start.size()) return reading;
    reading.bytes = static_cast<size_t>(std::min<uint64_t>(needed, start.size()));
  }
}

/// As an adapter, and as a base model.
void checkUse(Bytes header, uint64_t fileSize) {
  Session session(1);
  if (const Status set = session.setBase("base.gguf", header, fileSize); !set) checkError(set.error());
  if (const Status added = session.addAdapter({"adapter", "file", "config"}, header, fileSize, std::nullopt);
      !added)
    return checkError(added.error());
  checkCatalogue(session.adapters()[0], true);
  for (const char* format : {"same", "peft", "mlx"}) {
    Recipe recipe;
    recipe.method = "cat";
    recipe.format = format;
    recipe.keepScales = true;
    if (const Status planned = session.makePlan(recipe); !planned) {
      checkError(planned.error());
      continue;
    }
    checkLayout(session.plan(), session.adapters());
    checkOutput(session.plan());
  }
}

/// Whether the file is accepted.
bool checkFile(Bytes start, uint64_t fileSize) {
  const Reading reading = readByPieces(start, fileSize, 8);
  const auto whole = gguf::readHeader(start.first(std::min<uint64_t>(start.size(), fileSize)), fileSize);
  require(static_cast<bool>(whole) == !reading.error, "pieces come to the same end");
  if (reading.error) {
    checkError(*reading.error);
    require(describe(*reading.error) == describe(whole.error()), "pieces come to the same error");
    return false;
  }
  if (!reading.file) return false;
  require(whole->file.has_value(), "more bytes than needed are as good");
  // The header's own length stands nowhere: the writer's is known, others by trying.
  size_t least = 0, most = reading.bytes;
  while (least < most) {
    const size_t middle = (least + most) / 2;
    const auto progress = gguf::readHeader(start.first(middle), fileSize);
    requireOk(progress, "fewer bytes are no error");
    if (progress->file)
      most = middle;
    else
      least = middle + 1;
  }
  checkTable(*reading.file, most, fileSize);
  checkRoundTrip(*reading.file);
  checkUse(start.first(most), fileSize);
  return true;
}

/// A header of any keys and tensors, many of them an adapter's.
std::string takeHeader(Input& input) {
  constexpr const char* kNames[] = {
      "blk.0.attn_q.weight.lora_a",   "blk.0.attn_q.weight.lora_b",  "blk.0.attn_k.weight.lora_a",
      "blk.0.attn_k.weight.lora_b",   "blk.12.ffn_up.weight.lora_a", "blk.12.ffn_up.weight.lora_b",
      "token_embd.weight.lora_a",     "token_embd.weight.lora_b",    "output.weight.lora_a",
      "output.weight.lora_b",         "token_embd.weight",           "output.weight",
      "blk.0.ffn_gate.weight.lora_a", "blk.0.ffn_gate.weight.lora_b"};
  constexpr const char* kKeys[] = {"general.type",
                                   "adapter.type",
                                   "general.architecture",
                                   "adapter.lora.alpha",
                                   "general.base_model.0.name",
                                   "llama.attention.head_count",
                                   "llama.attention.head_count_kv",
                                   "adapter.alora.invocation_tokens",
                                   "k"};
  constexpr const char* kTexts[] = {"adapter", "lora", "llama", "qwen2", "model", "", "\xC3\xA9"};
  std::map<std::string, gguf::Value> metadata;
  if (!input.flag())
    metadata = {{"general.type", "adapter"}, {"adapter.type", "lora"}, {"general.architecture", "llama"}};
  for (size_t count = input.below(6); count > 0; --count) {
    gguf::Value& value = metadata[input.oneOf(kKeys)];
    switch (input.below(9)) {
      case 0: value = std::string(input.oneOf(kTexts)); break;
      case 1: value = input.take<uint32_t>(); break;
      case 2: value = input.take<int32_t>(); break;
      case 3: value = input.take<uint64_t>(); break;
      case 4: value = input.take<int64_t>(); break;
      case 5: value = static_cast<float>(takeNumber(input)); break;
      case 6: value = takeNumber(input); break;
      case 7: value = input.flag(); break;
      default: {
        const size_t length = input.below(4);
        value = gguf::Array{gguf::ValueType::UInt32, length, std::vector<int64_t>(length, input.below(9))};
      }
    }
  }
  const uint64_t sides[] = {input.between(1, 16), 32, input.between(1, 300), uint64_t{1} << input.below(40)};
  const uint64_t rank = input.oneOf(sides);
  Header header;
  const size_t first = input.below(std::size(kNames));
  for (size_t count = input.below(7), i = 0; i < count; ++i) {
    const std::string name = kNames[(first + i) % std::size(kNames)];
    const auto dtype = input.flag() ? static_cast<DType>(input.below(kDTypes)) : DType::F32;
    std::vector<uint64_t> shape;
    const size_t form = input.below(8);
    if (form < 6) {
      shape = {rank, input.oneOf(sides)};
      if (name.ends_with("_b") != (name.starts_with("token") && form % 2 == 0)) std::swap(shape[0], shape[1]);
    } else {
      for (size_t axes = input.below(5); axes > 0; --axes) shape.push_back(input.oneOf(sides));
    }
    header.tensors.push_back({name, dtype, shape, 0, 0});
    if (!bytesOf(dtype, shape)) header.tensors.back().dtype = DType::F16;
  }
  const auto text = gguf::writeHeader(header, {metadata.begin(), metadata.end()});
  if (text) return *text;
  checkError(text.error());
  return {};
}

}  // namespace
}  // namespace lego::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lego::fuzz;
  Bytes bytes = std::as_bytes(std::span(data, size));
  std::string made;
  if (!textOf(bytes).starts_with("GGUF")) {
    checkFile(bytes, size);
    Input input(bytes);
    made = takeHeader(input);
    bytes = bytesOf(made);
  }
  checkFile(bytes, bytes.size());
  // As many data as the header asks for.
  const auto open = lego::gguf::readHeader(bytes, UINT64_MAX);
  if (!open || !open->file) return 0;
  uint64_t fileSize = bytes.size();
  for (const auto& tensor : open->file->header.tensors) fileSize = std::max(fileSize, tensor.end);
  require(checkFile(bytes, fileSize), "a file of the size that its header asks for is accepted");
  if (fileSize > bytes.size()) require(!checkFile(bytes, fileSize - 1), "a file that is cut off is refused");
  return 0;
}
