// The .onnx_adapter container: ONNX Runtime's own bytes, bytes written by hand, and what is refused.

#include "format/onnx_adapter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>

#include "base/limits.h"
#include "base/random.h"
#include "core/dialect_samples.h"
#include "core/fixtures.h"
#include "tensor/convert.h"

namespace lego::testing {
namespace {

std::span<const std::byte> spanOf(const std::string& text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

/// From a copy of just that size, so that the sanitizer sees what is read beyond it.
Result<onnx_adapter::File> read(const std::string& file) {
  const auto bytes = spanOf(file);
  return onnx_adapter::readHeader(std::vector<std::byte>(bytes.begin(), bytes.end()));
}

/// Appends little-endian numbers.
struct Bytes {
  std::string text;

  template <typename T>
  Bytes& number(T value) {
    text.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  template <typename... T>
  Bytes& u16(T... values) {
    return (number(static_cast<uint16_t>(values)), ...);
  }
  template <typename... T>
  Bytes& u32(T... values) {
    return (number(static_cast<uint32_t>(values)), ...);
  }
};

template <typename T>
T numberAt(const std::string& text, size_t at) {
  T value{};
  std::memcpy(&value, text.data() + at, sizeof value);
  return value;
}

/// A copy with one number overwritten.
template <typename T>
std::string with(std::string text, size_t at, T value) {
  EXPECT_LE(at + sizeof value, text.size());
  std::memcpy(text.data() + at, &value, sizeof value);
  return text;
}

/// The file as a streaming writer makes it. Data is the letters of each tensor's place in the list.
std::string stream(Header& header, int32_t adapterVersion = 1, int32_t modelVersion = 1) {
  std::string file = must(onnx_adapter::writeHeader(header, adapterVersion, modelVersion));
  for (size_t i = 0; i < header.tensors.size(); ++i) {
    const TensorInfo& tensor = header.tensors[i];
    if (i > 0) file += onnx_adapter::bytesBetween(file.size(), tensor);
    EXPECT_EQ(file.size(), tensor.begin) << tensor.name;
    file.append(tensor.end - tensor.begin, static_cast<char>('A' + i % 26));
  }
  return file;
}
std::string stream(const std::vector<TensorInfo>& tensors) {
  Header header{tensors, {}};
  return stream(header);
}

// Where things lie in smallFile().
constexpr size_t kRoot = 20, kRootVtable = 8, kVtable = 40, kList = 52, kTables[] = {64, 84};
constexpr size_t kDims[] = {108, 140}, kNames[] = {128, 144}, kData[] = {160, 176}, kEnd = 180;
constexpr size_t kName = 4, kShape = 8, kType = 12, kRaw = 16;  // in a parameter's table

/// F16 2 x 3 and an F32 scalar, every number written out.
std::string smallFile() {
  Bytes file;
  file.u32(20).text += "TORT";
  file.u16(12, 20, 4, 8, 12, 16);                        // 8: the root's vtable
  file.u32(12, 1, 7, -3, 16);                            // 20: the root: version 1, 7, -3, list
  file.u16(12, 20, 4, 8, 12, 16);                        // 40: the parameters' vtable
  file.u32(2, 8, 24);                                    // 52: list of two
  file.u32(24, 60, 36, 10, 76);                          // 64: vtable, name, dims, FLOAT16, raw_data
  file.u32(44, 56, 48, 1, 72);                           // 84: vtable, name, dims, FLOAT, raw_data
  file.u32(0, 2).number(int64_t{2}).number(int64_t{3});  // 104: dims at 108
  file.u32(2).text += std::string("ab\0\0", 4);          // 128
  file.u32(0, 0);                                        // 136: dims at 140
  file.u32(1).text += std::string("c\0\0\0", 4);         // 144
  file.u32(0, 12).text += "AAAAAAAAAAAA";                // 152: data at 160
  file.u32(4).text += "BBBB";                            // 172: data at 176
  EXPECT_EQ(file.text.size(), kEnd);
  return file.text;
}

/// ONNX Runtime 1.23 wrote these, in Python:
///   a = onnxruntime.AdapterFormat()
///   a.set_adapter_version(7)
///   a.set_model_version(-3)
///   values = {'x': arange(3, dtype=float32), 'yy': arange(6, dtype=float16).reshape(2, 3),
///             'zzz': array(2.5, float64), 'i': arange(5, dtype=int8), 'e': zeros((0, 3), float32)}
///   a.set_parameters({k: onnxruntime.OrtValue.ortvalue_from_numpy(v) for k, v in values.items()})
///   a.export_adapter(path)
std::string onnxRuntimesFile() {
  const std::string hex =
      "08000000544f5254f4feffff0100000007000000fdffffff0400000005000000"
      "00010000ac0000007c000000400000000400000020ffffff2c00000010000000"
      "0100000004000000000000000200000000000000000000000300000000000000"
      "00000000010000006500000058ffffff2c000000180000000300000004000000"
      "0500000000010203040000000100000005000000000000000000000001000000"
      "6900000090ffffff20000000180000000b000000040000000800000000000000"
      "0000044000000000030000007a7a7a00bcffffff380000001c0000000a000000"
      "040000000c0000000000003c0040004200440045020000000200000000000000"
      "03000000000000000000000002000000797900000c001400040008000c001000"
      "0c0000002c0000001c00000001000000040000000c000000000000000000803f"
      "000000400100000003000000000000000100000078000000";
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  std::string file;
  for (size_t i = 0; i < hex.size(); i += 2)
    file += static_cast<char>(digit(hex[i]) * 16 + digit(hex[i + 1]));
  return file;
}

TEST(OnnxAdapter, ReadsWhatOnnxRuntimeWrites) {
  const std::string bytes = onnxRuntimesFile();
  ASSERT_TRUE(onnx_adapter::hasIdentifier(spanOf(bytes)));
  const auto file = must(read(bytes));
  EXPECT_EQ(file.adapterVersion, 7);
  EXPECT_EQ(file.modelVersion, -3);
  EXPECT_TRUE(file.header.metadata.empty());
  ASSERT_EQ(file.header.tensors.size(), 5u);
  const auto tensor = [&](const std::string& name) {
    const auto found = std::ranges::find(file.header.tensors, name, &TensorInfo::name);
    EXPECT_NE(found, file.header.tensors.end()) << name;
    return found == file.header.tensors.end() ? TensorInfo{} : *found;
  };
  const auto expectTensor = [&]<typename T>(const std::string& name, DType dtype,
                                            const std::vector<uint64_t>& shape,
                                            const std::vector<T>& values) {
    const TensorInfo info = tensor(name);
    EXPECT_EQ(info.dtype, dtype) << name;
    EXPECT_EQ(info.shape, shape) << name;
    ASSERT_EQ(info.end - info.begin, values.size() * sizeof(T)) << name;
    for (size_t i = 0; i < values.size(); ++i)
      EXPECT_EQ(numberAt<T>(bytes, info.begin + i * sizeof(T)), values[i]) << name;
  };
  expectTensor("x", DType::F32, {3}, std::vector<float>{0, 1, 2});
  expectTensor("yy", DType::F16, {2, 3}, std::vector<uint16_t>{0, 0x3C00, 0x4000, 0x4200, 0x4400, 0x4500});
  expectTensor("zzz", DType::F64, {}, std::vector<double>{2.5});
  expectTensor("i", DType::I8, {5}, std::vector<int8_t>{0, 1, 2, 3, 4});
  expectTensor("e", DType::F32, {0, 3}, std::vector<float>{});
  // It does not keep to the schema's alignment, so neither may the reader.
  EXPECT_EQ(tensor("i").begin % 8, 4u);
  // In the order of their data, which ONNX Runtime writes back to front.
  EXPECT_TRUE(std::ranges::is_sorted(file.header.tensors, {}, &TensorInfo::begin));
}

TEST(OnnxAdapter, ReadsAndWritesByteForByte) {
  const std::string expected = smallFile();
  const auto file = must(read(expected));
  EXPECT_EQ(file.adapterVersion, 7);
  EXPECT_EQ(file.modelVersion, -3);
  ASSERT_EQ(file.header.tensors.size(), 2u);
  const TensorInfo& first = file.header.tensors[0];
  const TensorInfo& second = file.header.tensors[1];
  EXPECT_EQ(first.name, "ab");
  EXPECT_EQ(first.dtype, DType::F16);
  EXPECT_EQ(first.shape, (std::vector<uint64_t>{2, 3}));
  EXPECT_EQ(first.begin, kData[0]);
  EXPECT_EQ(first.end, kData[0] + 12);
  EXPECT_EQ(second.name, "c");
  EXPECT_EQ(second.dtype, DType::F32);
  EXPECT_TRUE(second.shape.empty());
  EXPECT_EQ(second.begin, kData[1]);
  EXPECT_EQ(second.end, kEnd);

  Header header{{{"ab", DType::F16, {2, 3}, 0, 0}, {"c", DType::F32, {}, 0, 0}}, {{"not", "written"}}};
  EXPECT_EQ(stream(header, 7, -3), expected);
}

TEST(OnnxAdapter, ReadsWhatItWrites) {
  std::vector<TensorInfo> tensors = {{"\xC3\xA9", DType::F32, {3, 5}, 0, 0},
                                     {std::string(4096, 'n'), DType::F16, {7}, 0, 0},
                                     {"b", DType::BF16, {1, 1, 1, 1, 1, 1, 1, 3}, 0, 0},
                                     {"d", DType::F64, {}, 0, 0},
                                     {"none", DType::F32, {0, 4}, 0, 0},
                                     {"no", DType::F64, {9, 0}, 0, 0},
                                     {"8.0", DType::F8E4M3, {1}, 0, 0},
                                     {"8.1", DType::F8E4M3FNUZ, {2, 1}, 0, 0},
                                     {"8.22", DType::F8E5M2, {3}, 0, 0},
                                     {"8.333", DType::F8E5M2FNUZ, {2, 2}, 0, 0}};
  // Every length modulo 8, in front of and behind an empty one.
  for (uint64_t bytes = 0; bytes < 18; ++bytes)
    tensors.push_back({"length." + std::to_string(bytes), DType::F8E5M2, {bytes}, 0, 0});
  for (size_t count = 0; count <= tensors.size(); ++count) {
    Header header{{tensors.begin(), tensors.begin() + static_cast<std::ptrdiff_t>(count)}, {}};
    const std::string file = stream(header, std::numeric_limits<int32_t>::min(), 0);
    const auto back = must(read(file));
    EXPECT_EQ(back.adapterVersion, std::numeric_limits<int32_t>::min());
    EXPECT_EQ(back.modelVersion, 0);
    ASSERT_EQ(back.header.tensors.size(), count);
    for (size_t i = 0; i < count; ++i) {
      const TensorInfo& tensor = header.tensors[i];
      EXPECT_EQ(tensor.begin % onnx_adapter::kAlignment, 0u) << tensor.name;
      EXPECT_EQ(numberAt<uint32_t>(file, tensor.begin - 4), tensor.end - tensor.begin) << tensor.name;
      if (i > 0) {
        const std::string between = onnx_adapter::bytesBetween(header.tensors[i - 1].end, tensor);
        EXPECT_GE(between.size(), 4u);
        EXPECT_LE(between.size(), 11u);
      }
      EXPECT_EQ(back.header.tensors[i].name, tensor.name);
      EXPECT_EQ(back.header.tensors[i].dtype, tensor.dtype) << tensor.name;
      EXPECT_EQ(back.header.tensors[i].shape, tensor.shape) << tensor.name;
      EXPECT_EQ(back.header.tensors[i].begin, tensor.begin) << tensor.name;
      EXPECT_EQ(back.header.tensors[i].end, tensor.end) << tensor.name;
    }
  }
}

// What FlatBuffers lets writers do: share vtables and vectors, add fields that are not known yet, leave out
// fields that have their default.
TEST(OnnxAdapter, ReadsWhatFlatBuffersAllow) {
  const std::string pair = stream({{"s", DType::F16, {2, 3}, 0, 0}, {"t", DType::F16, {2, 3}, 0, 0}});
  const size_t dims = kTables[0] + kShape + numberAt<uint32_t>(pair, kTables[0] + kShape);
  const auto shared = with(pair, kTables[1] + kShape, static_cast<uint32_t>(dims - kTables[1] - kShape));
  EXPECT_EQ(must(read(shared)).header.tensors.at(1).shape, (std::vector<uint64_t>{2, 3}));

  // Nor does it matter who shares no bytes at all.
  const std::string empty = stream({{"s", DType::F16, {0}, 0, 0}, {"t", DType::F16, {0}, 0, 0}});
  const size_t data = kTables[0] + kRaw + numberAt<uint32_t>(empty, kTables[0] + kRaw);
  EXPECT_TRUE(read(with(empty, kTables[1] + kRaw, static_cast<uint32_t>(data - kTables[1] - kRaw))));

  // The root gets the parameters' vtable, and the other way round.
  const std::string small = smallFile();
  EXPECT_EQ(must(read(with(small, kRoot, int32_t{20 - 40}))).header.tensors.size(), 2u);
  EXPECT_EQ(must(read(with(small, kTables[0], int32_t{64 - 8}))).header.tensors.size(), 2u);

  // A vtable at the end, with five fields; the fifth of a kind that nobody knows.
  const std::string later = Bytes{small}.u16(14, 24, 4, 8, 12, 16, 1).text;
  EXPECT_EQ(must(read(with(later, kRoot, static_cast<int32_t>(kRoot - kEnd)))).header.tensors.size(), 2u);

  // The versions are left out.
  const auto bare = must(read(with(small, kRootVtable + 6, uint32_t{0})));
  EXPECT_EQ(bare.adapterVersion, 0);
  EXPECT_EQ(bare.modelVersion, 0);
  EXPECT_EQ(bare.header.tensors.size(), 2u);

  // Bytes that nothing refers to.
  EXPECT_TRUE(read(small + "behind"));

  // Each of the dtypes that are read but not written.
  const std::pair<int32_t, DType> kOthers[] = {
      {2, DType::U8},  {3, DType::I8},   {4, DType::U16},  {5, DType::I16},  {6, DType::I32},
      {7, DType::I64}, {9, DType::Bool}, {12, DType::U32}, {13, DType::U64}, {14, DType::C64}};
  for (const auto& [type, dtype] : kOthers) {
    const std::string file = stream({{"t", DType::F8E4M3, {bitsOf(dtype) / 8}, 0, 0}});
    const size_t first = kList + 8;  // of a list of one
    const size_t side = first + kShape + numberAt<uint32_t>(file, first + kShape) + 4;
    const auto back = must(read(with(with(file, side, int64_t{1}), first + kType, type)));
    EXPECT_EQ(back.header.tensors.at(0).dtype, dtype) << type;
  }
}

TEST(OnnxAdapter, RefusesOtherFiles) {
  const std::string small = smallFile();
  EXPECT_FALSE(onnx_adapter::hasIdentifier(spanOf(small).first(7)));
  EXPECT_FALSE(onnx_adapter::hasIdentifier({}));
  expectCode(read(""), Code::fileTruncated);
  expectCode(read("GGUF"), Code::fileTruncated);
  expectCode(read(with(small, 7, 'S')), Code::unknownFormat);
  expectCode(read("version https://git-lfs.github.com/spec/v1"), Code::unknownFormat);
  for (const int32_t version : {0, 2, -1, 256})
    expectCode(read(with(small, kRoot + 4, version)), Code::unknownFormat);
  expectCode(read(with(small, kRootVtable + 4, uint16_t{0})), Code::unknownFormat);  // absent: 0
  // Refused by its size alone.
  expectCode(
      onnx_adapter::readHeader({spanOf(small).data(), static_cast<size_t>(onnx_adapter::kFileBytes) + 1}),
      Code::sizeOverflow);
}

TEST(OnnxAdapter, RefusesBadOffsets) {
  const std::string small = smallFile();
  struct Reference {
    size_t at;
    const char* what;
  };
  for (const auto& [at, what] : {Reference{0, "root"},
                                 {kRoot + 16, "list"},
                                 {kList + 4, "first parameter"},
                                 {kList + 8, "second parameter"},
                                 {kTables[0] + kName, "name"},
                                 {kTables[0] + kShape, "dims"},
                                 {kTables[1] + kRaw, "data"}}) {
    SCOPED_TRACE(what);
    const auto offset = numberAt<uint32_t>(small, at);
    for (const uint32_t bad : {0u, offset + 1, offset + 2, 0x80000000u, 0xFFFFFFFCu})
      expectCode(read(with(small, at, bad)), Code::badHeader);
    for (const uint32_t far : {static_cast<uint32_t>(kEnd - at), 0x7FFFFFFCu})
      expectCode(read(with(small, at, far)), Code::fileTruncated);
  }
}

TEST(OnnxAdapter, RefusesBadTables) {
  const std::string small = smallFile();
  for (const auto& [table, vtable] : {std::pair(kRoot, kRootVtable), {kTables[0], kVtable}}) {
    SCOPED_TRACE(table);
    // Where the vtable lies: before the file, at an odd place, behind the file, at its very end.
    const auto place = static_cast<int32_t>(table);
    expectCode(read(with(small, table, place + 2)), Code::badHeader);
    expectCode(read(with(small, table, std::numeric_limits<int32_t>::max())), Code::badHeader);
    expectCode(read(with(small, table, int32_t{11})), Code::badHeader);
    expectCode(read(with(small, table, std::numeric_limits<int32_t>::min())), Code::fileTruncated);
    expectCode(read(with(small, table, place - static_cast<int32_t>(kEnd))), Code::fileTruncated);
    expectCode(read(with(small, table, place - static_cast<int32_t>(kEnd) + 2)), Code::fileTruncated);
    // Its size, and the table's.
    for (const uint16_t bytes : {0, 2, 3, 13}) expectCode(read(with(small, vtable, bytes)), Code::badHeader);
    expectCode(read(with(small, vtable, uint16_t{0xFFFE})), Code::fileTruncated);
    for (const uint16_t bytes : {0, 3, 4, 16, 19})
      expectCode(read(with(small, vtable + 2, bytes)), Code::badHeader);
    expectCode(read(with(small, vtable + 2, uint16_t{0xFFFF})), Code::fileTruncated);
    // Where fields lie: on the way to the vtable, at no multiple of 4, across the table's end, behind it.
    for (size_t field = 0; field < 4; ++field) {
      for (const uint16_t at : {1, 2, 3, 5, 6, 18, 20, 0xFFFC})
        expectCode(read(with(small, vtable + 4 + 2 * field, at)), Code::badHeader);
    }
  }
  // Absent fields, by a zero and by a vtable that ends before them.
  expectCode(read(with(small, kRootVtable + 10, uint16_t{0})), Code::badHeader);
  expectCode(read(with(small, kRootVtable, uint16_t{10})), Code::badHeader);
  expectCode(read(with(small, kVtable + 4, uint16_t{0})), Code::badHeader);     // name
  expectCode(read(with(small, kVtable + 6, uint16_t{0})), Code::badHeader);     // dims
  expectCode(read(with(small, kVtable + 8, uint16_t{0})), Code::unknownDtype);  // UNDEFINED
  expectCode(read(with(small, kVtable + 10, uint16_t{0})), Code::badHeader);    // data
  expectCode(read(with(small, kVtable, uint16_t{4})), Code::badHeader);
}

TEST(OnnxAdapter, RefusesBadParameters) {
  const std::string small = smallFile();
  // Names.
  expectCode(read(with(small, kNames[0], uint32_t{0})), Code::badHeader);
  expectCode(read(with(small, kNames[0], uint32_t{1})), Code::badHeader);  // no NUL behind it
  expectCode(read(with(small, kNames[0], uint32_t{3})), Code::badHeader);  // NUL in it
  expectCode(read(with(small, kNames[0], UINT32_MAX)), Code::fileTruncated);
  expectCode(read(with(small, kNames[0] + 4, '\xFF')), Code::badHeader);
  expectCode(read(with(small, kNames[0] + 6, '!')), Code::badHeader);
  expectCode(read(with(with(small, kNames[0], uint32_t{1}), kNames[0] + 4, uint16_t{'c'})),
             Code::duplicateTensor);
  expectCode(read(with(small, kList + 8, uint32_t{4})), Code::duplicateTensor);  // one table twice
  const std::string end = "\4" + std::string(3, '\0') + "none";
  const std::string unended =
      with(small + end, kTables[1] + kName, static_cast<uint32_t>(kEnd - kTables[1] - kName));
  expectCode(read(unended), Code::fileTruncated);
  EXPECT_EQ(must(read(unended + std::string(1, '\0'))).header.tensors.at(1).name, "none");
  const std::string name = std::string(4097, 'n') + std::string(4, '\0');
  const std::string longName = with(small + Bytes().u32(4097).text + name, kTables[1] + kName,
                                    static_cast<uint32_t>(kEnd - kTables[1] - kName));
  expectCode(read(longName), Code::badHeader);

  // Dims.
  expectCode(read(with(small, kDims[0] + 4, int64_t{-2})), Code::badHeader);
  expectCode(read(with(small, kDims[0] + 12, std::numeric_limits<int64_t>::min())), Code::badHeader);
  expectCode(read(with(small + std::string(8, '\0'), kDims[0], uint32_t{9})), Code::badHeader);
  expectCode(read(with(small, kDims[0], UINT32_MAX)), Code::fileTruncated);
  expectCode(read(with(small, kDims[0], uint32_t{0x20000000})), Code::fileTruncated);  // 2^32 bytes
  expectCode(read(with(small, kTables[0] + kShape, uint32_t{40})), Code::badHeader);   // at 116
  expectCode(read(with(small, kDims[0] + 4, int64_t{3})), Code::sizeMismatch);
  expectCode(read(with(small, kDims[0] + 4, int64_t{0})), Code::sizeMismatch);
  const auto huge = with(small, kDims[0] + 4, int64_t{1} << 62);
  expectCode(read(huge), Code::sizeMismatch);
  expectCode(read(with(huge, kDims[0] + 12, int64_t{1} << 62)), Code::sizeMismatch);
  // 2^32 * 2^32 elements of two bytes are none modulo 2^64.
  const auto none = with(with(small, kDims[0] + 4, int64_t{1} << 32), kDims[0] + 12, int64_t{1} << 32);
  expectCode(read(with(none, kData[0] - 4, uint32_t{0})), Code::sizeMismatch);

  // Dtypes.
  for (const int32_t type : {0, 8, 15, 21, -1, 266})
    expectCode(read(with(small, kTables[0] + kType, type)), Code::unknownDtype);
  expectCode(read(with(small, kTables[0] + kType, int32_t{1})), Code::sizeMismatch);
  EXPECT_TRUE(read(with(small, kTables[0] + kType, int32_t{16})));

  // Data.
  expectCode(read(with(small, kData[1] - 4, uint32_t{3})), Code::sizeMismatch);
  expectCode(read(with(small, kData[0] - 4, uint32_t{13})), Code::sizeMismatch);
  expectCode(read(with(small, kData[1] - 4, uint32_t{5})), Code::fileTruncated);
  expectCode(read(with(small, kData[1] - 4, UINT32_MAX)), Code::fileTruncated);

  const auto error = read(with(small, kTables[1] + kType, int32_t{8}));
  ASSERT_FALSE(error);
  EXPECT_EQ(error.error().tensor, "c");
}

TEST(OnnxAdapter, RefusesHugeLists) {
  const std::string small = smallFile();
  for (const uint32_t count : {uint32_t{33}, uint32_t{1000}, uint32_t{0x40000000}, UINT32_MAX})
    expectCode(read(with(small, kList, count)), Code::fileTruncated);
  std::string list = small;
  list.resize(kList + 4 + 4 * (limits::kOnnxParameters + 1));
  expectCode(read(with(list, kList, static_cast<uint32_t>(limits::kOnnxParameters + 1))),
             Code::headerTooLarge);
  // At the cap it is the content that is wrong.
  expectCode(read(with(list, kList, static_cast<uint32_t>(limits::kOnnxParameters))), Code::badHeader);
}

TEST(OnnxAdapter, RefusesSharedData) {
  // Two tensors of one vector.
  const std::string pair = stream({{"s", DType::F16, {2, 3}, 0, 0}, {"t", DType::F16, {2, 3}, 0, 0}});
  const size_t data = kTables[0] + kRaw + numberAt<uint32_t>(pair, kTables[0] + kRaw);
  expectCode(read(with(pair, kTables[1] + kRaw, static_cast<uint32_t>(data - kTables[1] - kRaw))),
             Code::tensorOverlap);
  // The dims, which are two numbers, as data of two bytes.
  const std::string bytes = stream({{"two", DType::F8E4M3, {2, 1}, 0, 0}});
  const size_t table = kList + 8;
  const size_t dims = table + kShape + numberAt<uint32_t>(bytes, table + kShape);
  ASSERT_EQ(numberAt<uint32_t>(bytes, dims), 2u);
  expectCode(read(with(bytes, table + kRaw, static_cast<uint32_t>(dims - table - kRaw))),
             Code::tensorOverlap);
  // A name of two letters.
  const size_t name = table + kName + numberAt<uint32_t>(bytes, table + kName);
  const std::string named =
      with(with(with(bytes, name, uint32_t{2}), name + 4, uint16_t{0x6161}), name + 6, '\0');
  EXPECT_TRUE(read(named));
  expectCode(read(with(named, table + kRaw, static_cast<uint32_t>(name - table - kRaw))),
             Code::tensorOverlap);
  // The first byte behind a data type, FLOAT, which is 1.
  const std::string one = stream({{"s", DType::F8E4M3, {1}, 0, 0}, {"t", DType::F32, {1}, 0, 0}});
  ASSERT_EQ(numberAt<uint32_t>(one, kTables[1] + kType), 1u);
  expectCode(
      read(with(one, kTables[0] + kRaw, static_cast<uint32_t>(kTables[1] + kType - kTables[0] - kRaw))),
      Code::tensorOverlap);
  // Data that reaches into the next one's length, and past it.
  const std::string small = smallFile();
  const std::string longer = with(with(small, kDims[0] + 12, int64_t{4}), kData[0] - 4, uint32_t{16});
  expectCode(read(longer), Code::tensorOverlap);
  const std::string past = with(with(small, kDims[0] + 12, int64_t{5}), kData[0] - 4, uint32_t{20});
  expectCode(read(past), Code::tensorOverlap);
  // A vtable in the data.
  const std::string hidden =
      with(Bytes{small.substr(0, kData[0])}.u16(12, 20, 4, 8, 12, 16).text + small.substr(kData[0] + 12),
           kTables[1], static_cast<int32_t>(kTables[1] - kData[0]));
  expectCode(read(hidden), Code::tensorOverlap);
}

/// Whatever was accepted must be safe to use.
bool expectSound(const std::string& file) {
  const auto header = read(file);
  if (!header) {
    EXPECT_FALSE(describe(header.error()).empty());
    return false;
  }
  std::set<std::string> names;
  uint64_t position = 0;
  for (const TensorInfo& tensor : header->header.tensors) {
    EXPECT_TRUE(!tensor.name.empty() && names.insert(tensor.name).second);
    EXPECT_LE(position, tensor.begin);
    EXPECT_LE(tensor.begin, tensor.end);
    EXPECT_LE(tensor.end, file.size());
    EXPECT_EQ(tensor.begin % 4, 0u);
    EXPECT_EQ(bytesOf(tensor.dtype, tensor.shape), tensor.end - tensor.begin);
    position = tensor.end;
  }
  return true;
}

TEST(OnnxAdapter, EveryTruncation) {
  const std::string small = smallFile();
  for (size_t length = 0; length < small.size(); ++length)
    expectCode(read(small.substr(0, length)), Code::fileTruncated);
  // Built back to front, with padding at the end: only that can be cut off.
  const std::string theirs = onnxRuntimesFile();
  for (size_t length = 0; length < theirs.size(); ++length)
    EXPECT_EQ(expectSound(theirs.substr(0, length)), length >= theirs.size() - 2) << length;
}

TEST(OnnxAdapter, EveryFlippedBit) {
  for (const std::string& good : {smallFile(), onnxRuntimesFile()}) {
    size_t accepted = 0;
    for (size_t at = 0; at < good.size(); ++at) {
      for (int bit = 0; bit < 8; ++bit)
        accepted += expectSound(with(good, at, static_cast<char>(good[at] ^ (1 << bit))));
    }
    // Names, versions, data and padding are free; most of the rest is not.
    EXPECT_GT(accepted, 0u);
    EXPECT_LT(accepted, good.size() * 8 / 2);
  }
}

TEST(OnnxAdapter, RandomDamage) {
  Random random(31);
  constexpr unsigned char kAwkward[] = {0, 1, 4, 8, 12, 0x7F, 0x80, 0xFF};
  const std::string goods[] = {smallFile(), onnxRuntimesFile()};
  for (int round = 0; round < 40'000; ++round) {
    std::string bad = goods[round % 2];
    for (uint64_t changes = 1 + random.below(4); changes > 0; --changes) {
      const uint64_t at = random.below(bad.size()), run = 1 + random.below(8);
      for (uint64_t i = at; i < std::min<uint64_t>(at + run, bad.size()); ++i)
        bad[i] = static_cast<char>(random.below(2) ? kAwkward[random.below(8)] : random.below(256));
    }
    if (random.below(4) == 0) bad.resize(random.below(bad.size() + 1));
    expectSound(bad);
  }
}

TEST(OnnxAdapter, WritesNothingThatWouldNotLoad) {
  const auto write = [](const std::vector<TensorInfo>& tensors) {
    Header header{tensors, {}};
    return onnx_adapter::writeHeader(header, 1, 1);
  };
  expectCode(write({{"", DType::F32, {1}, 0, 0}}), Code::notExpressible);
  expectCode(write({{std::string("a\0", 2), DType::F32, {1}, 0, 0}}), Code::notExpressible);
  expectCode(write({{"\xFF", DType::F32, {1}, 0, 0}}), Code::notExpressible);
  expectCode(write({{std::string(4097, 'n'), DType::F32, {1}, 0, 0}}), Code::notExpressible);
  expectCode(write({{"t", DType::F32, {1, 1, 1, 1, 1, 1, 1, 1, 1}, 0, 0}}), Code::notExpressible);
  for (size_t i = 0; i < kDTypes; ++i) {
    const auto dtype = static_cast<DType>(i);
    const TensorInfo tensor{"t", dtype, {blockOf(dtype) * 8}, 0, 0};
    if (isFactorDtype(dtype) && dtype != DType::Q8_0) {
      EXPECT_TRUE(write({tensor})) << nameOf(dtype);
    } else {
      expectCode(write({tensor}), Code::notExpressible);
    }
  }
  expectCode(write({{"t", DType::F32, {1}, 0, 0}, {"t", DType::F16, {2}, 0, 0}}), Code::duplicateTensor);
  const std::string tooMany =
      expectCode(write(std::vector<TensorInfo>(limits::kOnnxParameters + 1)), Code::notExpressible);
  EXPECT_NE(tooMany.find("999999"), std::string::npos) << tooMany;
}

TEST(OnnxAdapter, WritesBelowTwoGigabytes) {
  const auto write = [](const std::vector<uint64_t>& shape, DType dtype = DType::F8E5M2) {
    Header header{{{"t", dtype, shape, 0, 0}}, {}};
    return onnx_adapter::writeHeader(header, 1, 1);
  };
  const uint64_t head = must(write({1})).size();
  constexpr uint64_t kMost = 0x7FFFFFFF - 1;  // less than FLATBUFFERS_MAX_BUFFER_SIZE
  EXPECT_TRUE(write({kMost - head}));
  expectCode(write({kMost - head + 1}), Code::sizeOverflow);
  expectCode(write({uint64_t{1} << 32}), Code::sizeOverflow);
  expectCode(write({UINT64_MAX}), Code::sizeOverflow);
  expectCode(write({UINT64_MAX - 7}), Code::sizeOverflow);
  expectCode(write({uint64_t{1} << 62}, DType::F32), Code::sizeOverflow);
  // No bytes, but a side that its place in the file does not hold.
  EXPECT_TRUE(write({0, (uint64_t{1} << 63) - 1}));
  expectCode(write({0, uint64_t{1} << 63}), Code::sizeOverflow);

  // The sum decides, and prefixes and padding count.
  const auto writeTwo = [](uint64_t first, uint64_t second) {
    Header header{{{"t", DType::F8E5M2, {first}, 0, 0}, {"u", DType::F8E5M2, {second}, 0, 0}}, {}};
    return onnx_adapter::writeHeader(header, 1, 1);
  };
  const uint64_t headOfTwo = must(writeTwo(1, 1)).size();
  constexpr uint64_t kFirst = 0x40000000;
  const uint64_t rest = kMost - headOfTwo - kFirst - 8;  // 4 bytes of padding, 4 of length
  EXPECT_TRUE(writeTwo(kFirst, rest));
  expectCode(writeTwo(kFirst, rest + 1), Code::sizeOverflow);
  EXPECT_EQ(onnx_adapter::bytesBetween(17, {"t", DType::F8E5M2, {2}, 24, 26}),
            std::string("\0\0\0\2\0\0\0", 7));
}

TEST(OnnxAdapter, HoldsTheFactorsUnderTheGraphsNames) {
  Random random(26);
  const std::vector<Pair> pairs = {randomPair(random, 3, 12, 9, "model.layers.0.mlp.down_proj"),
                                   randomPair(random, 3, 9, 12, "model.layers.0.self_attn.q_proj")};
  const TestAdapter peft{"x", makeAdapter("x", pairs, DType::F16, 6).file,
                         makeAdapter("x", pairs, DType::F16, 6).config};
  Recipe recipe = converting("onnx");
  const auto tensors = [&] {
    const Merged there = must(mergeAll({peft}, recipe));
    EXPECT_TRUE(there.plan.config.empty());
    const auto file = must(onnx_adapter::readHeader(there.file));
    std::vector<std::pair<TensorInfo, std::vector<float>>> found;
    for (const TensorInfo& tensor : file.header.tensors) {
      std::vector<float> values((tensor.end - tensor.begin) / 2);
      toFloatRef(tensor.dtype, there.file.data() + tensor.begin, values.size(), values.data());
      found.emplace_back(tensor, std::move(values));
    }
    return found;
  };
  const Pair first = rounded(pairs[0], DType::F16);
  std::vector<float> doubled(first.b);
  for (float& value : doubled) value *= 2;
  auto found = tensors();
  ASSERT_EQ(found.size(), 4u);
  EXPECT_EQ(found[0].first.name, "model.layers.0.mlp.down_proj.lora_A.weight");
  EXPECT_EQ(found[0].first.shape, (std::vector<uint64_t>{12, 3}));
  EXPECT_EQ(found[0].second, turned(first.a, 3, 12));
  EXPECT_EQ(found[1].first.shape, (std::vector<uint64_t>{3, 9}));
  EXPECT_EQ(found[1].second, turned(doubled, 9, 3));
  recipe.onnxNameA = "{module}.A";
  recipe.onnxNameB = "{module}.B";
  recipe.onnxMatMul = false;
  found = tensors();
  EXPECT_EQ(found[0].first.name, "model.layers.0.mlp.down_proj.A");
  EXPECT_EQ(found[0].first.shape, (std::vector<uint64_t>{3, 12}));
  EXPECT_EQ(found[0].second, first.a);
  EXPECT_EQ(found[1].second, doubled);
}

}  // namespace
}  // namespace lego::testing
