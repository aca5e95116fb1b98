#include "format/onnx_adapter.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>
#include <string_view>
#include <tuple>

#include "base/checked.h"
#include "base/limits.h"
#include "base/order.h"
#include "format/text.h"

namespace lego::onnx_adapter {
namespace {

constexpr std::string_view kIdentifier = "TORT";

/// TensorDataType by number (adapter_schema.fbs). Missing are STRING 8 and COMPLEX128 15.
constexpr std::pair<int32_t, DType> kTypes[] = {
    {1, DType::F32},     {2, DType::U8},          {3, DType::I8},      {4, DType::U16},
    {5, DType::I16},     {6, DType::I32},         {7, DType::I64},     {9, DType::Bool},
    {10, DType::F16},    {11, DType::F64},        {12, DType::U32},    {13, DType::U64},
    {14, DType::C64},    {16, DType::BF16},       {17, DType::F8E4M3}, {18, DType::F8E4M3FNUZ},
    {19, DType::F8E5M2}, {20, DType::F8E5M2FNUZ},
};

// Fields in the order of the schema, which numbers them.
enum AdapterField : uint64_t { kVersionField, kAdapterVersionField, kModelVersionField, kParametersField };
enum ParameterField : uint64_t { kNameField, kDimsField, kTypeField, kDataField };
constexpr uint64_t kFields = 4;  // of either table

constexpr uint64_t kLengthBytes = 4;  // of a vector or string, in front of its content
constexpr uint64_t kDimBytes = 8;

Error fail(Code code, std::string detail, std::string tensor = {}, std::optional<uint64_t> offset = {}) {
  return {code, std::move(detail), {}, std::move(tensor), offset};
}

constexpr uint64_t aligned(uint64_t position, uint64_t alignment) {
  return (position + alignment - 1) & ~(alignment - 1);
}

bool isName(std::string_view name) {
  return !name.empty() && name.size() <= limits::kOnnxNameBytes && isText(name);
}

/// A table whose own bytes and vtable are known to lie in the file.
struct Table {
  uint64_t at = 0, bytes = 0;
  uint64_t vtable = 0, vtableBytes = 0;
};

/// The content of a vector or string, known to lie in the file.
struct Vector {
  uint64_t begin = 0, count = 0;
};

/// Bytes of the file that are in use.
struct Extent {
  uint64_t begin, end;
  const TensorInfo* tensor;  ///< whose data they are, if they are data
};

/// Follows the file's offsets to a fixed depth: root, list, parameter, content. Functions return false once
/// `error` says why the file is refused. All positions are below 2^32, as the file is below 2^31 and offsets
/// are checked to be.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  File file;
  Error error;

  bool read() {
    if (bytes_.size() > kFileBytes) {
      return stop(fail(Code::sizeOverflow, "the file has " + std::to_string(bytes_.size()) +
                                               " bytes; an .onnx_adapter has less than 2 GB"));
    }
    if (!have(0, kPrefixBytes)) return false;
    if (!hasIdentifier(bytes_))
      return stop(fail(Code::unknownFormat, "the file does not have 'TORT' at byte 4", {}, 4));
    uint64_t root = 0;
    return follow(0, root) && readAdapter(root) && checkOverlaps();
  }

 private:
  bool stop(Error why) {
    error = std::move(why);
    return false;
  }
  bool refuse(const std::string& why, uint64_t at) {
    return stop(fail(Code::badHeader, "the file's structure is wrong: " + why, tensor_, at));
  }
  bool have(uint64_t at, uint64_t count) {
    if (at <= bytes_.size() && count <= bytes_.size() - at) return true;
    return stop(fail(Code::fileTruncated,
                     "the file has " + std::to_string(bytes_.size()) +
                         " bytes, but what it refers to goes on; download or copy it again",
                     tensor_, at));
  }
  void use(uint64_t begin, uint64_t bytes) { extents_.push_back({begin, begin + bytes, nullptr}); }

  /// The number at a position that was checked.
  template <typename T>
  T number(uint64_t at) const {
    T value{};
    std::memcpy(&value, bytes_.data() + at, sizeof(T));
    return value;
  }

  /// Where the offset at a checked position leads: further on, with the four bytes there in the file.
  /// Whatever is referred to starts with 32 bits: a table's way to its vtable, or a length.
  bool follow(uint64_t at, uint64_t& target) {
    const uint64_t offset = number<uint32_t>(at);
    if (offset == 0 || offset > static_cast<uint64_t>(std::numeric_limits<int32_t>::max()))
      return refuse("an offset is zero or negative", at);
    target = at + offset;
    if (target % 4 != 0) return refuse("an offset leads to no multiple of 4", at);
    return have(target, 4);
  }

  /// Opens the table at a position from follow().
  bool open(uint64_t at, Table& table) {
    const int64_t vtable = static_cast<int64_t>(at) - number<int32_t>(at);
    if (vtable < 0 || vtable % 2 != 0) return refuse("a table's vtable lies at no place for one", at);
    table.at = at;
    table.vtable = static_cast<uint64_t>(vtable);
    if (!have(table.vtable, 4)) return false;
    table.vtableBytes = number<uint16_t>(table.vtable);
    table.bytes = number<uint16_t>(table.vtable + 2);
    if (table.vtableBytes < 4 || table.vtableBytes % 2 != 0)
      return refuse("a vtable has an impossible size", table.vtable);
    if (!have(table.vtable, table.vtableBytes) || !have(at, table.bytes)) return false;
    use(table.vtable, table.vtableBytes);
    use(at, table.bytes);
    return true;
  }

  /// Where a field of 32 bits lies; 0 if the table does not have it.
  bool find(const Table& table, uint64_t field, uint64_t& at) {
    at = 0;
    const uint64_t slot = 4 + 2 * field;
    if (slot >= table.vtableBytes) return true;
    const uint64_t offset = number<uint16_t>(table.vtable + slot);
    if (offset == 0) return true;
    if (offset % 4 != 0 || offset + 4 > table.bytes)
      return refuse("a field lies outside its table, or at no multiple of 4", table.vtable + slot);
    at = table.at + offset;
    return true;
  }

  /// A field of a number; absent, it is 0, as the schema has no other defaults.
  bool take(const Table& table, uint64_t field, int32_t& value) {
    uint64_t at = 0;
    if (!find(table, field, at)) return false;
    value = at == 0 ? 0 : number<int32_t>(at);
    return true;
  }

  /// A field that refers to a vector of elements of so many bytes. Not yet in use.
  bool take(const Table& table, uint64_t field, uint64_t elementBytes, const char* what, Vector& vector) {
    uint64_t at = 0, target = 0;
    if (!find(table, field, at)) return false;
    if (at == 0) return refuse(std::string(what) + " is absent", table.at);
    if (!follow(at, target)) return false;
    vector.begin = target + kLengthBytes;
    vector.count = number<uint32_t>(target);
    return have(vector.begin, vector.count * elementBytes);
  }

  bool readAdapter(uint64_t at) {
    Table table;
    int32_t version = 0;
    if (!open(at, table) || !take(table, kVersionField, version)) return false;
    if (version != kFormatVersion) {
      return stop(fail(Code::unknownFormat, "version " + std::to_string(version) +
                                                " of the .onnx_adapter format is not known; 1 is read"));
    }
    Vector parameters;
    if (!take(table, kAdapterVersionField, file.adapterVersion) ||
        !take(table, kModelVersionField, file.modelVersion) ||
        !take(table, kParametersField, sizeof(uint32_t), "the list of parameters", parameters))
      return false;
    if (parameters.count > limits::kOnnxParameters) {
      return stop(fail(Code::headerTooLarge,
                       std::to_string(parameters.count) + " parameters; at most " +
                           std::to_string(limits::kOnnxParameters) + " are read",
                       {}, parameters.begin - kLengthBytes));
    }
    use(parameters.begin - kLengthBytes, kLengthBytes + parameters.count * sizeof(uint32_t));
    for (uint64_t i = 0; i < parameters.count; ++i) {
      tensor_.clear();
      uint64_t target = 0;
      if (!follow(parameters.begin + i * sizeof(uint32_t), target) || !readParameter(target)) return false;
    }
    return true;
  }

  bool readParameter(uint64_t at) {
    Table table;
    TensorInfo tensor;
    if (!open(at, table) || !readName(table, tensor) || !readShape(table, tensor) || !readType(table, tensor))
      return false;
    Vector data;
    if (!take(table, kDataField, 1, "raw_data", data)) return false;
    const auto bytes = bytesOf(tensor.dtype, tensor.shape);
    if (bytes != data.count) {
      return stop(fail(Code::sizeMismatch,
                       (bytes ? "dims and dtype need " + std::to_string(*bytes) + " bytes"
                              : std::string("dims and dtype need more bytes than fit 64 bits")) +
                           ", but there are " + std::to_string(data.count),
                       tensor_, data.begin));
    }
    use(data.begin - kLengthBytes, kLengthBytes);
    tensor.begin = data.begin;
    tensor.end = data.begin + data.count;
    file.header.tensors.push_back(std::move(tensor));
    return true;
  }

  bool readName(const Table& table, TensorInfo& tensor) {
    Vector text;
    if (!take(table, kNameField, 1, "a parameter's name", text)) return false;
    if (!have(text.begin, text.count + 1)) return false;
    const std::string_view name(reinterpret_cast<const char*>(bytes_.data()) + text.begin,
                                static_cast<size_t>(text.count));
    if (!isName(name)) {
      return refuse("a parameter's name is not 1 to " + std::to_string(limits::kOnnxNameBytes) +
                        " bytes of UTF-8 without NUL",
                    text.begin);
    }
    if (number<char>(text.begin + text.count) != '\0')
      return refuse("no NUL ends a parameter's name", text.begin + text.count);
    tensor.name = tensor_ = name;
    if (!names_.insert(name).second)
      return stop(fail(Code::duplicateTensor, "two parameters have the same name", tensor_, text.begin));
    use(text.begin - kLengthBytes, kLengthBytes + text.count + 1);
    return true;
  }

  bool readShape(const Table& table, TensorInfo& tensor) {
    Vector dims;
    if (!take(table, kDimsField, kDimBytes, "dims", dims)) return false;
    if (dims.count > limits::kDimensions)
      return refuse("more than " + std::to_string(limits::kDimensions) + " dimensions", dims.begin);
    if (dims.count > 0 && dims.begin % kDimBytes != 0)
      return refuse("dims lie at no multiple of 8", dims.begin);
    for (uint64_t d = 0; d < dims.count; ++d) {
      const auto side = number<int64_t>(dims.begin + d * kDimBytes);
      if (side < 0) return refuse("a dimension is negative", dims.begin + d * kDimBytes);
      tensor.shape.push_back(static_cast<uint64_t>(side));
    }
    use(dims.begin - kLengthBytes, kLengthBytes + dims.count * kDimBytes);
    return true;
  }

  bool readType(const Table& table, TensorInfo& tensor) {
    int32_t type = 0;
    if (!take(table, kTypeField, type)) return false;
    const auto* known = std::ranges::find(kTypes, type, &std::pair<int32_t, DType>::first);
    if (known == std::end(kTypes)) {
      return stop(fail(Code::unknownDtype, "the data type " + std::to_string(type) + " is not read", tensor_,
                       table.at));
    }
    tensor.dtype = known->second;
    return true;
  }

  /// No byte of data is another tensor's, or anything else. Vtables and dims may serve more than one
  /// parameter.
  bool checkOverlaps() {
    auto& tensors = file.header.tensors;
    sortByPlace(tensors);
    for (const TensorInfo& tensor : tensors) extents_.push_back({tensor.begin, tensor.end, &tensor});
    sortStable(extents_, [](const Extent& x, const Extent& y) {
      return std::tuple(x.begin, x.end, x.tensor != nullptr) <
             std::tuple(y.begin, y.end, y.tensor != nullptr);
    });
    uint64_t used = 0;                 // end of all that came so far
    uint64_t dataEnd = 0;              // end of the data that came so far
    const TensorInfo* last = nullptr;  // whose it is
    for (const Extent& extent : extents_) {
      const TensorInfo* shared = extent.begin < dataEnd ? last
                                 : extent.begin < used  ? extent.tensor
                                                        : nullptr;
      if (shared) {
        return stop(fail(Code::tensorOverlap, "the tensor shares bytes with something else in the file",
                         shared->name, extent.begin));
      }
      used = std::max(used, extent.end);
      if (extent.tensor) dataEnd = extent.end, last = extent.tensor;
    }
    return true;
  }

  const std::span<const std::byte> bytes_;
  std::set<std::string_view> names_;  // as they stand in bytes_
  std::vector<Extent> extents_;
  std::string tensor_;  // the parameter that is read, once its name is known
};

// What writeHeader() lays out: root offset and identifier; the root table behind its vtable; the vtable of
// all parameters; the list; their tables; dims and name of each; the data. All offsets lead forward.
constexpr uint64_t kVtableBytes = 4 + 2 * kFields;  // its own size, the table's, and where each field lies
constexpr uint64_t kTableBytes = 4 + 4 * kFields;   // the way to the vtable, and fields of 32 bits
constexpr uint64_t kAdapterVtable = kPrefixBytes;
constexpr uint64_t kAdapterTable = kAdapterVtable + kVtableBytes;
constexpr uint64_t kParameterVtable = kAdapterTable + kTableBytes;
constexpr uint64_t kParameterList = kParameterVtable + kVtableBytes;
static_assert(kAdapterTable % 4 == 0 && kParameterList % 4 == 0);
constexpr uint64_t fieldOf(uint64_t table, uint64_t field) { return table + 4 + 4 * field; }

/// Appends little-endian numbers.
class Writer {
 public:
  std::string bytes;

  template <typename T>
  void put(T value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  /// An offset from here to what lies further on.
  void refer(uint64_t target) { put(static_cast<uint32_t>(target - bytes.size())); }
  void zerosTo(uint64_t position) { bytes.resize(static_cast<size_t>(position)); }
  /// The vtable of a table that has every field, all of 32 bits, in order.
  void vtable() {
    put(static_cast<uint16_t>(kVtableBytes));
    put(static_cast<uint16_t>(kTableBytes));
    for (uint64_t field = 0; field < kFields; ++field) put(static_cast<uint16_t>(fieldOf(0, field)));
  }
};

/// Where dims and name of a parameter lie: their lengths.
struct Place {
  uint64_t dims, name;
};

/// Places everything, and refuses what does not fit the format.
Result<std::vector<Place>> layOut(Header& header) {
  std::vector<Place> places;
  std::set<std::string_view> names;
  const uint64_t count = header.tensors.size();
  const auto tooLarge = [](const std::string& tensor) {
    return fail(Code::sizeOverflow, "the merged file would have 2 GB or more, which an .onnx_adapter cannot",
                tensor);
  };
  if (count > limits::kOnnxParameters) {
    return fail(Code::notExpressible,
                "an .onnx_adapter has at most " + std::to_string(limits::kOnnxParameters) + " tensors");
  }
  uint64_t next = kParameterList + kLengthBytes + count * (sizeof(uint32_t) + kTableBytes);
  for (const TensorInfo& tensor : header.tensors) {
    const auto refuse = [&](const std::string& why) { return fail(Code::notExpressible, why, tensor.name); };
    if (!isName(tensor.name)) {
      return refuse("names of an .onnx_adapter have 1 to " + std::to_string(limits::kOnnxNameBytes) +
                    " bytes of UTF-8 without NUL");
    }
    if (!names.insert(tensor.name).second)
      return fail(Code::duplicateTensor, "two merged tensors have the same name in an .onnx_adapter",
                  tensor.name);
    if (tensor.shape.size() > limits::kDimensions)
      return refuse("more than " + std::to_string(limits::kDimensions) + " dimensions");
    Place place{};
    place.dims = aligned(next + kLengthBytes, kDimBytes) - kLengthBytes;
    place.name = place.dims + kLengthBytes + tensor.shape.size() * kDimBytes;
    next = aligned(place.name + kLengthBytes + tensor.name.size() + 1, 4);
    places.push_back(place);
  }
  for (TensorInfo& tensor : header.tensors) {
    const auto* type = std::ranges::find(kTypes, tensor.dtype, &std::pair<int32_t, DType>::second);
    if (type == std::end(kTypes) || !isFactorDtype(tensor.dtype)) {
      return fail(Code::notExpressible,
                  "an .onnx_adapter is not written in " + std::string(nameOf(tensor.dtype)), tensor.name);
    }
    const auto isTooLong = [](uint64_t side) {
      return side > static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    };
    const auto bytes = bytesOf(tensor.dtype, tensor.shape);
    if (!bytes || std::ranges::any_of(tensor.shape, isTooLong)) return tooLarge(tensor.name);
    // Cannot overflow: `next` is below 2^33 by the caps on names and their number, or at most kFileBytes.
    tensor.begin = aligned(next + kLengthBytes, kAlignment);
    const auto end = checkedAdd(tensor.begin, *bytes);
    if (!end || *end > kFileBytes) return tooLarge(tensor.name);
    next = tensor.end = *end;
  }
  return places;
}

}  // namespace

bool hasIdentifier(std::span<const std::byte> prefix) {
  return prefix.size() >= kPrefixBytes && std::memcmp(prefix.data() + kPrefixBytes - kIdentifier.size(),
                                                      kIdentifier.data(), kIdentifier.size()) == 0;
}

Result<File> readHeader(std::span<const std::byte> file) {
  Reader reader(file);
  if (!reader.read()) return std::move(reader.error);
  return std::move(reader.file);
}

std::string bytesBetween(uint64_t previousEnd, const TensorInfo& tensor) {
  Writer writer;
  writer.zerosTo(tensor.begin - kLengthBytes - previousEnd);
  writer.put(static_cast<uint32_t>(tensor.end - tensor.begin));
  return std::move(writer.bytes);
}

Result<std::string> writeHeader(Header& header, int32_t adapterVersion, int32_t modelVersion) {
  const auto places = layOut(header);
  if (!places) return places.error();
  const uint64_t count = header.tensors.size();
  const uint64_t tables = kParameterList + kLengthBytes + count * sizeof(uint32_t);

  Writer writer;
  writer.refer(kAdapterTable);
  writer.bytes += kIdentifier;
  writer.vtable();
  writer.put(static_cast<int32_t>(kAdapterTable - kAdapterVtable));
  writer.put(kFormatVersion);
  writer.put(adapterVersion);
  writer.put(modelVersion);
  writer.refer(kParameterList);
  writer.vtable();
  writer.put(static_cast<uint32_t>(count));
  for (uint64_t i = 0; i < count; ++i) writer.refer(tables + i * kTableBytes);
  for (size_t i = 0; i < count; ++i) {
    const TensorInfo& tensor = header.tensors[i];
    writer.put(static_cast<int32_t>(writer.bytes.size() - kParameterVtable));
    writer.refer((*places)[i].name);
    writer.refer((*places)[i].dims);
    writer.put(std::ranges::find(kTypes, tensor.dtype, &std::pair<int32_t, DType>::second)->first);
    writer.refer(tensor.begin - kLengthBytes);
  }
  for (size_t i = 0; i < count; ++i) {
    const TensorInfo& tensor = header.tensors[i];
    writer.zerosTo((*places)[i].dims);
    writer.put(static_cast<uint32_t>(tensor.shape.size()));
    for (const uint64_t side : tensor.shape) writer.put(static_cast<int64_t>(side));
    writer.put(static_cast<uint32_t>(tensor.name.size()));
    writer.bytes += tensor.name;
    writer.zerosTo(aligned(writer.bytes.size() + 1, 4));
  }
  if (count > 0) writer.bytes += bytesBetween(writer.bytes.size(), header.tensors.front());
  return std::move(writer.bytes);
}

}  // namespace lego::onnx_adapter
