#include "format/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <set>
#include <type_traits>

#include "base/checked.h"
#include "base/limits.h"
#include "format/text.h"

namespace lego::gguf {
namespace {

constexpr uint64_t kStartBytes = 24;     // magic, version, number of tensors, number of key/values
constexpr uint64_t kLeastKeyValue = 14;  // length and one byte of a key, type, one byte of value
constexpr uint64_t kLeastTensor = 25;    // length and one byte of a name, number of dimensions, type, offset
constexpr size_t kKeyBytes = 65535;      // docs/gguf.md
constexpr size_t kReadNameBytes = 64;    // docs/gguf.md
constexpr size_t kDimensions = 4;        // GGML_MAX_DIMS
constexpr std::string_view kAlignmentKey = "general.alignment";

/// ggml_type by number; gaps are types that were removed from the format.
constexpr std::pair<uint32_t, DType> kTypes[] = {
    {0, DType::F32},     {1, DType::F16},      {2, DType::Q4_0},   {3, DType::Q4_1},    {6, DType::Q5_0},
    {7, DType::Q5_1},    {8, DType::Q8_0},     {9, DType::Q8_1},   {10, DType::Q2_K},   {11, DType::Q3_K},
    {12, DType::Q4_K},   {13, DType::Q5_K},    {14, DType::Q6_K},  {15, DType::Q8_K},   {16, DType::IQ2_XXS},
    {17, DType::IQ2_XS}, {18, DType::IQ3_XXS}, {19, DType::IQ1_S}, {20, DType::IQ4_NL}, {21, DType::IQ3_S},
    {22, DType::IQ2_S},  {23, DType::IQ4_XS},  {24, DType::I8},    {25, DType::I16},    {26, DType::I32},
    {27, DType::I64},    {28, DType::F64},     {29, DType::IQ1_M}, {30, DType::BF16},   {34, DType::TQ1_0},
    {35, DType::TQ2_0},  {39, DType::MXFP4},   {40, DType::NVFP4}, {41, DType::Q1_0},
};

Error fail(Code code, std::string detail, std::string tensor = {}, std::optional<uint64_t> offset = {}) {
  return {code, std::move(detail), {}, std::move(tensor), offset};
}

std::optional<uint64_t> padded(uint64_t position, uint64_t alignment) {
  const uint64_t over = position & (alignment - 1);
  return over == 0 ? position : checkedAdd(position, alignment - over);
}

bool isKey(std::string_view key) {
  return !key.empty() && key.size() <= kKeyBytes &&
         std::ranges::all_of(key, [](char c) { return c >= 0x20 && c < 0x7F; });
}

bool isName(std::string_view name, size_t most) {
  return !name.empty() && name.size() <= most && isText(name);
}

/// Bytes of a value; 0 of strings and arrays, and of numbers that are no type.
uint64_t sizeOf(ValueType type) {
  switch (type) {
    case ValueType::UInt8:
    case ValueType::Int8:
    case ValueType::Bool: return 1;
    case ValueType::UInt16:
    case ValueType::Int16: return 2;
    case ValueType::UInt32:
    case ValueType::Int32:
    case ValueType::Float32: return 4;
    case ValueType::UInt64:
    case ValueType::Int64:
    case ValueType::Float64: return 8;
    case ValueType::String:
    case ValueType::Array: break;
  }
  return 0;
}

/// work(T{}) for T an element's type, where that is an integer of up to 32 bits. False where it is none, and
/// where `work` says so.
template <typename Work>
bool withInteger(ValueType element, Work work) {
  switch (element) {
    case ValueType::UInt8: return work(uint8_t{});
    case ValueType::Int8: return work(int8_t{});
    case ValueType::UInt16: return work(uint16_t{});
    case ValueType::Int16: return work(int16_t{});
    case ValueType::UInt32: return work(uint32_t{});
    case ValueType::Int32: return work(int32_t{});
    default: return false;
  }
}

/// One pass over the bytes that are there. Every function but tell() returns false once it cannot go on, and
/// then either `error` says why or `wanted` up to which position the bytes must reach.
class Reader {
 public:
  Reader(std::span<const std::byte> bytes, uint64_t fileSize) : bytes_(bytes), fileSize_(fileSize) {}

  File file;
  std::optional<Error> error;
  uint64_t wanted = 0;

  bool read() { return readStart() && readMetadata() && readTensors() && placeTensors(); }

 private:
  bool stop(Error why) {
    error = std::move(why);
    return false;
  }
  bool refuse(std::string why, std::string tensor = {}) {
    return stop(fail(Code::badHeader, "the header is wrong: " + std::move(why), std::move(tensor), at_));
  }

  /// Whether the next `count` bytes are there.
  bool have(uint64_t count) {
    if (count > fileSize_ - at_) {
      return stop(fail(Code::fileTruncated,
                       "the file has " + std::to_string(fileSize_) +
                           " bytes, and its header goes on; download or copy it again",
                       {}, fileSize_));
    }
    if (at_ + count > limits::kGgufHeaderBytes) {
      return stop(fail(Code::headerTooLarge,
                       "the header takes more than " + std::to_string(limits::kGgufHeaderBytes) + " bytes",
                       {}, at_));
    }
    if (at_ + count <= bytes_.size()) return true;
    wanted = at_ + count;
    return false;
  }

  template <typename T>
  T peek() const {
    T value{};
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    return value;
  }
  template <typename T>
  bool take(T& value) {
    if (!have(sizeof(T))) return false;
    value = peek<T>();
    at_ += sizeof(T);
    return true;
  }
  /// A string as it stands in the bytes: a view, so that nothing is stored that is not wanted.
  bool takeString(std::string_view& text) {
    uint64_t size = 0;
    if (!take(size) || !have(size)) return false;
    text = {reinterpret_cast<const char*>(bytes_.data()) + at_, static_cast<size_t>(size)};
    at_ += size;
    return true;
  }

  bool readStart() {
    if (!have(kStartBytes)) return false;
    if (std::memcmp(bytes_.data(), "GGUF", 4) != 0)
      return stop(fail(Code::unknownFormat, "the file does not begin with 'GGUF'", {}, 0));
    at_ = 4;
    uint32_t version = 0;
    if (!take(version)) return false;
    const auto unknown = [&](const std::string& why) { return stop(fail(Code::unknownFormat, why, {}, 4)); };
    if (version != 0 && (version & 0xFFFF) == 0)
      return unknown("this GGUF file is big-endian; convert it to little-endian");
    if (version == 1)
      return unknown("this is GGUF version 1, which llama.cpp gave up in 2023; convert the model anew");
    if (version != 2 && version != 3)
      return unknown("GGUF version " + std::to_string(version) + " is not known; 2 and 3 are read");
    if (!take(tensors_) || !take(keyValues_)) return false;
    // Before anything is made for them: so many must fit into the file at all.
    const auto keyBytes = checkedMultiply(keyValues_, kLeastKeyValue);
    const auto tensorBytes = checkedMultiply(tensors_, kLeastTensor);
    const auto least = keyBytes && tensorBytes ? checkedAdd(*keyBytes, *tensorBytes) : std::nullopt;
    if (!least || *least > fileSize_ - at_) {
      return stop(fail(Code::fileTruncated,
                       "the header claims " + std::to_string(keyValues_) + " key/values and " +
                           std::to_string(tensors_) + " tensors, more than " + std::to_string(fileSize_) +
                           " bytes can hold",
                       {}, 8));
    }
    if (*least > limits::kGgufHeaderBytes) return have(*least);
    return true;
  }

  bool readMetadata() {
    for (uint64_t i = 0; i < keyValues_; ++i) {
      std::string_view key;
      uint32_t type = 0;
      if (!takeString(key)) return false;
      if (!isKey(key)) return refuse("key " + std::to_string(i) + " is not 1 to 65535 printable characters");
      if (!take(type)) return false;
      const auto [entry, isNew] = file.metadata.try_emplace(std::string(key));
      if (!isNew) return refuse("the key " + shownName(entry->first) + " occurs twice");
      if (!readValue(static_cast<ValueType>(type), entry->second, entry->first)) return false;
      if (key == kAlignmentKey && !readAlignment(static_cast<ValueType>(type), entry->second)) return false;
    }
    return true;
  }

  bool readAlignment(ValueType type, const Value& value) {
    const auto* alignment = std::get_if<uint32_t>(&value);
    if (type != ValueType::UInt32 || !alignment || *alignment % 8 != 0 || !std::has_single_bit(*alignment))
      return refuse("general.alignment is no power of two of 8 or more");
    alignment_ = *alignment;
    return true;
  }

  template <typename Stored, typename Kept>
  bool keep(Value& value) {
    Stored stored{};
    if (!take(stored)) return false;
    return value = static_cast<Kept>(stored), true;
  }

  bool readValue(ValueType type, Value& value, const std::string& key) {
    switch (type) {
      case ValueType::UInt8: return keep<uint8_t, uint32_t>(value);
      case ValueType::Int8: return keep<int8_t, int32_t>(value);
      case ValueType::UInt16: return keep<uint16_t, uint32_t>(value);
      case ValueType::Int16: return keep<int16_t, int32_t>(value);
      case ValueType::UInt32: return keep<uint32_t, uint32_t>(value);
      case ValueType::Int32: return keep<int32_t, int32_t>(value);
      case ValueType::UInt64: return keep<uint64_t, uint64_t>(value);
      case ValueType::Int64: return keep<int64_t, int64_t>(value);
      case ValueType::Float32: return keep<float, float>(value);
      case ValueType::Float64: return keep<double, double>(value);
      case ValueType::Bool: {
        uint8_t byte = 0;
        if (!take(byte)) return false;
        if (byte > 1) return refuse("the boolean " + shownName(key) + " is neither 0 nor 1");
        return value = byte == 1, true;
      }
      case ValueType::String: {
        std::string_view text;
        if (!takeString(text)) return false;
        if (!isText(text)) return refuse("the value of " + shownName(key) + " is not UTF-8, or holds NUL");
        return value = std::string(text), true;
      }
      case ValueType::Array: return readArray(value, key);
    }
    return refuse("the value of " + shownName(key) + " has the unknown type " +
                  std::to_string(static_cast<uint32_t>(type)));
  }

  bool readArray(Value& value, const std::string& key) {
    uint32_t type = 0;
    Array array;
    if (!take(type) || !take(array.count)) return false;
    array.element = static_cast<ValueType>(type);
    if (array.element == ValueType::String) {
      // Each takes at least its length; so much is known before the loop that could be made endless.
      if (array.count > (fileSize_ - at_) / sizeof(uint64_t)) return have(fileSize_ - at_ + 1);
      std::string_view text;
      for (uint64_t i = 0; i < array.count; ++i) {
        if (!takeString(text)) return false;
      }
    } else {
      const uint64_t size = sizeOf(array.element);
      if (size == 0)
        return refuse("the array " + shownName(key) + " has elements of the type " + std::to_string(type));
      const auto bytes = checkedMultiply(array.count, size);
      if (!have(bytes.value_or(std::numeric_limits<uint64_t>::max()))) return false;
      if (array.count <= limits::kGgufArrayValues) keepIntegers(array);
      at_ += *bytes;
    }
    return value = std::move(array), true;
  }

  void keepIntegers(Array& array) const {
    withInteger(array.element, [&]<typename T>(T element) {
      for (size_t i = 0; i < array.count; ++i) {
        std::memcpy(&element, bytes_.data() + at_ + i * sizeof(T), sizeof(T));
        array.integers.push_back(element);
      }
      return true;
    });
  }

  bool readTensors() {
    for (uint64_t i = 0; i < tensors_; ++i) {
      std::string_view name;
      if (!takeString(name)) return false;
      if (!isName(name, kReadNameBytes))
        return refuse("the name of tensor " + std::to_string(i) +
                      " is not 1 to 64 bytes of UTF-8 without NUL");
      TensorInfo tensor;
      tensor.name = name;
      if (!readTensor(tensor)) return false;
      file.header.tensors.push_back(std::move(tensor));
    }
    return true;
  }

  /// Shape, dtype and place; `begin` and `end` from the start of the data as yet.
  bool readTensor(TensorInfo& tensor) {
    uint32_t dimensions = 0, type = 0;
    if (!take(dimensions)) return false;
    if (dimensions > kDimensions) return refuse("more than 4 dimensions", tensor.name);
    tensor.shape.resize(dimensions);
    for (size_t d = dimensions; d > 0; --d) {
      if (!take(tensor.shape[d - 1])) return false;
      if (tensor.shape[d - 1] == 0) return refuse("a side is 0", tensor.name);
    }
    if (!take(type) || !take(tensor.begin)) return false;
    const auto* known = std::ranges::find(kTypes, type, &std::pair<uint32_t, DType>::first);
    if (known == std::end(kTypes)) {
      return stop(fail(Code::unknownDtype, "ggml has no type " + std::to_string(type) + " in files",
                       tensor.name, at_ - sizeof(uint64_t) - sizeof(uint32_t)));
    }
    tensor.dtype = known->second;
    if (!tensor.shape.empty() && tensor.shape.back() % blockOf(tensor.dtype) != 0) {
      return stop(fail(Code::sizeMismatch,
                       "rows of " + std::to_string(tensor.shape.back()) +
                           " elements are no whole blocks of " + std::string(nameOf(tensor.dtype)) +
                           ", which has " + std::to_string(blockOf(tensor.dtype)),
                       tensor.name, at_));
    }
    const auto bytes = bytesOf(tensor.dtype, tensor.shape);
    const auto end = bytes ? checkedAdd(tensor.begin, *bytes) : bytes;
    if (!end)
      return stop(fail(Code::sizeOverflow, "the tensor's size does not fit 64 bits", tensor.name, at_));
    tensor.end = *end;
    return true;
  }

  /// As ggml reads: in the order of the header, each tensor at the next aligned position.
  bool placeTensors() {
    auto& tensors = file.header.tensors;
    std::set<std::string_view> names;
    for (const TensorInfo& tensor : tensors) {
      if (!names.insert(tensor.name).second)
        return stop(fail(Code::duplicateTensor, "the name occurs twice in the header", tensor.name));
    }
    // Cannot overflow: at_ is below the cap of headers, the alignment below 2^32.
    const uint64_t dataBegin = *padded(at_, alignment_);
    uint64_t next = 0;
    for (TensorInfo& tensor : tensors) {
      if (tensor.begin % alignment_ != 0) {
        return stop(fail(Code::badOffsets,
                         "the offset " + std::to_string(tensor.begin) + " is no multiple of the alignment " +
                             std::to_string(alignment_),
                         tensor.name));
      }
      if (tensor.begin < next)
        return stop(fail(Code::tensorOverlap, "the tensor shares bytes with the one before it", tensor.name));
      if (tensor.begin > next)
        return stop(fail(Code::tensorHole, "the bytes in front of the tensor belong to none", tensor.name));
      const auto after = padded(tensor.end, alignment_);
      const auto end = checkedAdd(tensor.end, dataBegin);
      if (!after || !end)
        return stop(fail(Code::sizeOverflow, "the tensor's size does not fit 64 bits", tensor.name));
      if (*end > fileSize_) {
        return stop(fail(Code::fileTruncated,
                         "the file has " + std::to_string(fileSize_) + " bytes, but the tensor ends at " +
                             std::to_string(*end) + "; download or copy it again",
                         tensor.name, fileSize_));
      }
      next = *after;
      tensor.begin += dataBegin;
      tensor.end = *end;
    }
    return true;
  }

  const std::span<const std::byte> bytes_;
  const uint64_t fileSize_;
  uint64_t at_ = 0;  // never beyond bytes_, so it fits a size_t
  uint64_t tensors_ = 0, keyValues_ = 0;
  uint64_t alignment_ = kAlignment;
};

template <typename T>
const T* valueOf(const Metadata& metadata, std::string_view key) {
  const auto entry = metadata.find(key);
  return entry == metadata.end() ? nullptr : std::get_if<T>(&entry->second);
}

/// Appends the bytes of little-endian numbers and of strings.
class Writer {
 public:
  std::string bytes;

  template <typename T>
  void put(T value) {
    static_assert(std::is_arithmetic_v<T>);
    bytes.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  void put(const std::string& text) {
    put(uint64_t{text.size()});
    bytes += text;
  }
  void put(ValueType type) { put(static_cast<uint32_t>(type)); }

  /// Type and value. False for an array whose integers are not there, do not fit, or have a type of no
  /// integer.
  bool putValue(const Value& value) {
    return std::visit(
        [&]<typename T>(const T& content) {
          if constexpr (std::is_same_v<T, Array>) {
            return putArray(content);
          } else {
            if constexpr (std::is_same_v<T, uint32_t>) put(ValueType::UInt32);
            if constexpr (std::is_same_v<T, int32_t>) put(ValueType::Int32);
            if constexpr (std::is_same_v<T, uint64_t>) put(ValueType::UInt64);
            if constexpr (std::is_same_v<T, int64_t>) put(ValueType::Int64);
            if constexpr (std::is_same_v<T, float>) put(ValueType::Float32);
            if constexpr (std::is_same_v<T, double>) put(ValueType::Float64);
            if constexpr (std::is_same_v<T, bool>) put(ValueType::Bool);
            if constexpr (std::is_same_v<T, std::string>) put(ValueType::String);
            put(content);
            return true;
          }
        },
        value);
  }

 private:
  bool putArray(const Array& array) {
    put(ValueType::Array);
    put(array.element);
    put(array.count);
    if (array.integers.size() != array.count) return false;
    return withInteger(array.element, [&]<typename T>(T) {
      for (const int64_t integer : array.integers) {
        if (!std::in_range<T>(integer)) return false;
        put(static_cast<T>(integer));
      }
      return true;
    });
  }
};

}  // namespace

const std::string* textOf(const Metadata& metadata, std::string_view key) {
  return valueOf<std::string>(metadata, key);
}

const Array* arrayOf(const Metadata& metadata, std::string_view key) { return valueOf<Array>(metadata, key); }

std::optional<uint64_t> integerOf(const Metadata& metadata, std::string_view key) {
  const auto entry = metadata.find(key);
  if (entry == metadata.end()) return std::nullopt;
  return std::visit(
      []<typename T>(const T& content) -> std::optional<uint64_t> {
        if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
          if (content >= T{0}) return static_cast<uint64_t>(content);
        }
        return std::nullopt;
      },
      entry->second);
}

std::optional<double> numberOf(const Metadata& metadata, std::string_view key) {
  const auto entry = metadata.find(key);
  if (entry == metadata.end()) return std::nullopt;
  return std::visit(
      []<typename T>(const T& content) -> std::optional<double> {
        if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, bool>)
          return static_cast<double>(content);
        return std::nullopt;
      },
      entry->second);
}

Result<ReadProgress> readHeader(std::span<const std::byte> bytes, uint64_t fileSize) {
  if (bytes.size() > fileSize) bytes = bytes.first(static_cast<size_t>(fileSize));
  Reader reader(bytes, fileSize);
  if (reader.read()) return ReadProgress{0, std::move(reader.file)};
  if (reader.error) return std::move(*reader.error);
  const uint64_t most = std::min(fileSize, limits::kGgufHeaderBytes);
  return ReadProgress{std::min(std::max(reader.wanted, 2 * uint64_t{bytes.size()}), most), {}};
}

Result<std::string> writeHeader(Header& header, const std::vector<std::pair<std::string, Value>>& metadata) {
  Writer writer;
  writer.bytes = "GGUF";
  writer.put(uint32_t{3});
  writer.put(uint64_t{header.tensors.size()});
  writer.put(uint64_t{metadata.size()});
  std::set<std::string_view> keys = {kAlignmentKey};  // the default holds
  for (const auto& [key, value] : metadata) {
    const auto* text = std::get_if<std::string>(&value);
    if (!isKey(key) || !keys.insert(key).second)
      return fail(Code::internal, "the key " + shownName(key) + " cannot be written");
    // Values are from the input: a base model's name, say.
    if (text && !isText(*text)) {
      return fail(Code::notExpressible, "GGUF texts are UTF-8 without NUL, unlike " + shownName(*text) +
                                            ", which would be " + shownName(key));
    }
    writer.put(key);
    if (!writer.putValue(value))
      return fail(Code::internal, "the array " + shownName(key) + " cannot be written");
  }
  std::set<std::string_view> names;
  uint64_t next = 0;
  for (TensorInfo& tensor : header.tensors) {
    const auto refuse = [&](const std::string& why) { return fail(Code::notExpressible, why, tensor.name); };
    if (!isName(tensor.name, kNameBytes))
      return refuse("GGUF names have at most " + std::to_string(kNameBytes) + " bytes of UTF-8 without NUL");
    if (!names.insert(tensor.name).second)
      return fail(Code::duplicateTensor, "two merged tensors have the same name in GGUF", tensor.name);
    if (tensor.shape.size() > kDimensions) return refuse("GGUF tensors have at most 4 dimensions");
    if (std::ranges::find(tensor.shape, 0u) != tensor.shape.end()) return refuse("a side is 0");
    const auto* type = std::ranges::find(kTypes, tensor.dtype, &std::pair<uint32_t, DType>::second);
    if (type == std::end(kTypes)) return refuse("GGUF has no dtype " + std::string(nameOf(tensor.dtype)));
    if ((tensor.shape.empty() ? 1 : tensor.shape.back()) % blockOf(tensor.dtype) != 0)
      return refuse("its rows are no whole blocks of " + std::string(nameOf(tensor.dtype)));
    const auto bytes = bytesOf(tensor.dtype, tensor.shape);
    const auto end = bytes ? checkedAdd(next, *bytes) : bytes;
    const auto after = end ? padded(*end, kAlignment) : end;
    if (!after) return fail(Code::sizeOverflow, "the merged tensor's size does not fit 64 bits", tensor.name);
    writer.put(tensor.name);
    writer.put(static_cast<uint32_t>(tensor.shape.size()));
    for (size_t d = tensor.shape.size(); d > 0; --d) writer.put(tensor.shape[d - 1]);
    writer.put(type->first);
    writer.put(next);
    tensor.begin = next;
    tensor.end = *end;
    next = *after;
  }
  writer.bytes.append(paddingAfter(writer.bytes.size()), '\0');
  if (!checkedAdd(next, writer.bytes.size()))
    return fail(Code::sizeOverflow, "the merged file's size does not fit 64 bits");
  for (TensorInfo& tensor : header.tensors) {
    tensor.begin += writer.bytes.size();
    tensor.end += writer.bytes.size();
  }
  return std::move(writer.bytes);
}

}  // namespace lego::gguf
