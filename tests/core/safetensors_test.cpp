// The strict container reader: everything that the reference refuses, and what it lets through.

#include <gtest/gtest.h>

#include <cstring>

#include "core/fixtures.h"
#include "format/safetensors.h"

namespace lego::testing {
namespace {

std::vector<std::byte> fileOf(const std::string& json, size_t dataBytes,
                              std::optional<uint64_t> claimed = {}) {
  const uint64_t size = claimed.value_or(json.size());
  std::vector<std::byte> file(8 + json.size() + dataBytes);
  for (int i = 0; i < 8; ++i) file[i] = static_cast<std::byte>(size >> (8 * i));
  std::memcpy(file.data() + 8, json.data(), json.size());
  return file;
}

Result<Header> read(const std::vector<std::byte>& bytes) {
  const std::span<const std::byte> file = bytes;
  const auto size = safetensors::headerSize(file.first(std::min<size_t>(8, file.size())), file.size());
  if (!size) return size.error();
  return safetensors::readHeader(file.first(*size), file.size());
}
Result<Header> readJson(const std::string& json, size_t dataBytes) { return read(fileOf(json, dataBytes)); }

std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   uint64_t begin, uint64_t end) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":[" +
         std::to_string(begin) + "," + std::to_string(end) + "]}";
}

TEST(Safetensors, ReadsWhatTheFormatAllows) {
  // Any order of keys, unknown fields, padding, scalars, empty tensors, any string as a name.
  const std::string json = "{" + tensor("b", "F16", "[2,3]", 4, 16) +
                           ",\"__metadata__\":{\"k\":\"v\",\"e\":\"\"}," +
                           "\"a\":{\"extra\":{\"deep\":[1,{\"x\":null}]},\"data_offsets\":[0,4],\"more\":1.5,"
                           "\"shape\":[],\"dtype\":\"F32\",\"s\":\"t\",\"b\":true}," +
                           tensor("empty", "BF16", "[0,7]", 4, 4) + "," +
                           tensor("\\u0000\\\"\xC3\xA9", "U8", "[1]", 16, 17) + "}   ";
  const Header header = must(readJson(json, 17));
  ASSERT_EQ(header.tensors.size(), 4u);
  const uint64_t data = 8 + json.size();
  EXPECT_EQ(header.tensors[0].name, "a");
  EXPECT_EQ(header.tensors[0].begin, data);
  EXPECT_TRUE(header.tensors[0].shape.empty());
  EXPECT_EQ(header.tensors[1].name, "empty");
  EXPECT_EQ(header.tensors[2].name, "b");
  EXPECT_EQ(header.tensors[2].dtype, DType::F16);
  EXPECT_EQ(header.tensors[2].shape, (std::vector<uint64_t>{2, 3}));
  EXPECT_EQ(header.tensors[3].name, std::string("\0\"\xC3\xA9", 4));
  EXPECT_EQ(header.tensors[3].end, data + 17);
  EXPECT_EQ(header.metadata, (std::vector<std::pair<std::string, std::string>>{{"k", "v"}, {"e", ""}}));
  EXPECT_TRUE(must(readJson("{}", 0)).tensors.empty());
}

TEST(Safetensors, RefusesBadJson) {
  const std::string good = tensor("a", "F32", "[1]", 0, 4);
  for (const std::string& json : {
           std::string(),
           std::string("{"),
           std::string("[]"),
           std::string("null"),
           std::string("\"x\""),
           " {" + good + "}",
           "{" + good + "} x",
           "{" + good + "}" + std::string("\0", 1),
           "{" + good + "}" + std::string("\0{", 2),
           "{" + good + ",}",
           std::string("{\"a\":1}"),
           std::string("{\"a\":[]}"),
           std::string("{\"a\":\"x\"}"),
           std::string("{\"a\":{}}"),
           std::string("{\"a\":null}"),
           std::string("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}"),
           std::string("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}"),
           std::string("{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}"),
           std::string("{\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,4]}}"),
           std::string("{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}"),
           std::string("{\"a\":{\"dtype\":\"F32\",\"shape\":\"x\",\"data_offsets\":[0,4]}}"),
           std::string("{\"a\":{\"dtype\":\"F32\",\"shape\":{},\"data_offsets\":[0,4]}}"),
           std::string("{\"a\":{\"dtype\":\"F32\",\"shape\":[[1]],\"data_offsets\":[0,4]}}"),
           std::string("{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}"),
           std::string("{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}"),
           std::string("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}"),
           std::string("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]}}"),
           std::string("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,99999999999999999999]}}"),
           std::string("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"shape\":[1],\"data_offsets\":[0,4]}}"),
           std::string("{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}"),
           "{\"__metadata__\":{\"k\":1}," + good + "}",
           "{\"__metadata__\":[]," + good + "}",
           "{\"__metadata__\":{},\"__metadata__\":{}," + good + "}",
           "{\"__metadata__\":{\"k\":{}}," + good + "}",
           std::string("{\"\xFF\":1}"),
           "{\"a\xC3(\":" + good.substr(4) + "}",
           std::string("{\"\\ud800\":{}}"),
           std::string(100'000, '['),
       }) {
    expectCode(readJson(json, 4), Code::badHeader);
  }
}

TEST(Safetensors, RefusesBadTensors) {
  const auto table = [](const std::string& a, const std::string& b = "") {
    return "{" + a + (b.empty() ? "" : "," + b) + "}";
  };
  expectCode(readJson(table(tensor("a", "F33", "[1]", 0, 4)), 4), Code::unknownDtype);
  expectCode(readJson(table(tensor("a", "F32", "[2]", 0, 4)), 4), Code::sizeMismatch);
  expectCode(readJson(table(tensor("a", "F4", "[3]", 0, 1)), 1), Code::sizeMismatch);
  expectCode(readJson(table(tensor("a", "F32", "[1]", 4, 0)), 4), Code::badOffsets);
  expectCode(readJson(table(tensor("a", "F32", "[4294967296,4294967296]", 0, 4)), 4), Code::sizeOverflow);
  expectCode(readJson(table(tensor("a", "F32", "[4611686018427387904]", 0, 4)), 4), Code::sizeOverflow);
  expectCode(readJson(table(tensor("a", "U8", "[18446744073709551608]", 0, 18446744073709551608u)), 4),
             Code::sizeOverflow);
  expectCode(readJson(table(tensor("a", "F32", "[1]", 0, 4), tensor("a", "F32", "[1]", 4, 8)), 8),
             Code::duplicateTensor);
  expectCode(readJson(table(tensor("a", "F32", "[1]", 0, 4), tensor("\\u0061", "F32", "[1]", 4, 8)), 8),
             Code::duplicateTensor);
  expectCode(readJson(table(tensor("a", "Q8_0", "[32]", 0, 34)), 34), Code::unknownDtype);
  expectCode(readJson(table(tensor("a", "F32", "[2]", 0, 8), tensor("b", "F32", "[1]", 4, 8)), 8),
             Code::tensorOverlap);
  expectCode(readJson(table(tensor("a", "F32", "[1]", 0, 4), tensor("b", "F32", "[1]", 0, 4)), 4),
             Code::tensorOverlap);
  expectCode(readJson(table(tensor("a", "F32", "[1]", 0, 4), tensor("b", "F32", "[1]", 5, 9)), 9),
             Code::tensorHole);
  expectCode(readJson(table(tensor("a", "F32", "[1]", 4, 8)), 8), Code::tensorHole);
  expectCode(readJson(table(tensor("a", "F32", "[1]", 0, 4)), 3), Code::fileTruncated);
  expectCode(readJson(table(tensor("a", "F32", "[1]", 0, 4)), 5), Code::trailingBytes);
  expectCode(readJson("{}", 1), Code::trailingBytes);
}

TEST(Safetensors, MessagesNameTensorAndPlace) {
  const std::string json =
      "{" + tensor("first", "F32", "[1]", 0, 4) + "," + tensor("second", "F32", "[1]", 6, 10) + "}";
  const auto header = readJson(json, 10);
  ASSERT_FALSE(header);
  EXPECT_EQ(header.error().tensor, "second");
  EXPECT_EQ(header.error().offset, 8 + json.size() + 4);
}

// A header of 640 bytes begins like a pickle of protocol 2.
TEST(Safetensors, TakesHeadersWhoseLengthLooksLikeAPickle) {
  for (const size_t length : {0x280, 0x380, 0x480, 0x580, 0x10280}) {
    std::string json = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
    json += std::string(length - json.size() - 1, ' ') + "}";
    EXPECT_EQ(must(read(fileOf(json, 1, length))).tensors.size(), 1u) << length;
  }
}

TEST(Safetensors, RefusesWhatIsNoSafetensors) {
  const auto prefix = [](std::string text) {
    std::vector<std::byte> file(100);
    std::memcpy(file.data(), text.data(), text.size());
    return file;
  };
  expectCode(read({}), Code::fileTruncated);
  expectCode(read(std::vector<std::byte>(7)), Code::fileTruncated);
  expectCode(read(fileOf("{}", 0, 3)), Code::fileTruncated);
  expectCode(read(fileOf("{}", 0, 100'000'000)), Code::fileTruncated);
  expectCode(read(fileOf("{}", 0, 100'000'001)), Code::headerTooLarge);
  expectCode(read(fileOf("{}", 0, UINT64_MAX)), Code::headerTooLarge);
  // The first bytes of torch.save: a zip archive; before 1.6, and of pickle.dump, a bare pickle.
  expectCode(read(prefix(std::string("PK\x03\x04\x00\x00\x08\x08", 8))), Code::pickleFile);
  expectCode(read(prefix("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46")), Code::pickleFile);
  expectCode(read(prefix(std::string("\x80\x02}q\x00(X\x05", 8))), Code::pickleFile);
  expectCode(read(prefix("\x80\x05\x95\x14\x01\x02\x03\x04")), Code::pickleFile);
  expectCode(read(prefix("GGUF\x03")), Code::unknownFormat);
  expectCode(read(prefix("version https://git-lfs.github.com/spec/v1")), Code::unknownFormat);
  expectCode(read(prefix("<!DOCTYPE html>")), Code::headerTooLarge);
}

// Every prefix of a good file, and every single byte of it changed, must be read or refused, never crash.
TEST(Safetensors, SurvivesTruncationAndFlips) {
  const std::vector<std::byte> good =
      makeSafetensors({{"a", DType::F32, {2, 2}, {1, 2, 3, 4}}, {"b", DType::BF16, {3}, {1, 2, 3}}});
  ASSERT_TRUE(read(good));
  for (size_t length = 0; length < good.size(); ++length) {
    EXPECT_FALSE(read({good.begin(), good.begin() + static_cast<std::ptrdiff_t>(length)})) << length;
  }
  for (size_t at = 0; at < good.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      auto flipped = good;
      flipped[at] ^= static_cast<std::byte>(1 << bit);
      const auto header = read(flipped);
      if (header) continue;
      EXPECT_FALSE(describe(header.error()).empty());
    }
  }
}

TEST(Safetensors, WritesWhatItReads) {
  Header header;
  header.metadata = {{"format", "pt"}, {"quote\"", "\xC3\xA9\n"}};
  header.tensors = {
      {"z", DType::BF16, {3, 2}, 0, 0}, {"", DType::F64, {}, 0, 0}, {"none", DType::F16, {0, 4}, 0, 0}};
  const std::string text = must(safetensors::writeHeader(header));
  EXPECT_EQ(text.size() % 8, 0u);
  std::vector<std::byte> file(text.size() + 20);
  std::memcpy(file.data(), text.data(), text.size());
  const Header back = must(read(file));
  EXPECT_EQ(back.metadata, header.metadata);
  ASSERT_EQ(back.tensors.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(back.tensors[i].name, header.tensors[i].name);
    EXPECT_EQ(back.tensors[i].shape, header.tensors[i].shape);
    EXPECT_EQ(back.tensors[i].begin, header.tensors[i].begin);
    EXPECT_EQ(back.tensors[i].end, header.tensors[i].end);
  }
  Header blocks;
  blocks.tensors = {{"q", DType::Q8_0, {32}, 0, 0}};
  expectCode(safetensors::writeHeader(blocks), Code::badDtype);
  header.tensors.push_back({"huge", DType::F64, {UINT64_MAX, 2}, 0, 0});
  expectCode(safetensors::writeHeader(header), Code::sizeOverflow);
}

TEST(Safetensors, WritesElementsOfLessThanAByte) {
  Header header;
  header.tensors = {
      {"four", DType::F4, {3, 2}, 0, 0}, {"six", DType::F6E2M3, {8}, 0, 0}, {"u8", DType::U8, {1}, 0, 0}};
  const std::string text = must(safetensors::writeHeader(header));
  EXPECT_EQ(header.tensors[0].end - header.tensors[0].begin, 3u);
  EXPECT_EQ(header.tensors[1].end - header.tensors[1].begin, 6u);
  std::vector<std::byte> file(text.size() + 10);
  std::memcpy(file.data(), text.data(), text.size());
  const Header back = must(read(file));
  ASSERT_EQ(back.tensors.size(), 3u);
  EXPECT_EQ(back.tensors[2].begin, header.tensors[2].begin);
  header.tensors = {{"odd", DType::F4, {3}, 0, 0}};
  expectCode(safetensors::writeHeader(header), Code::sizeMismatch);
}

// The data fit 64 bits, but not behind their header.
TEST(Safetensors, RefusesToWriteFilesBeyond64Bits) {
  Header header;
  for (int i = 0; i < 7; ++i)
    header.tensors.push_back({std::string(1, 'a' + i), DType::U8, {UINT64_MAX / 8}, 0, 0});
  EXPECT_TRUE(safetensors::writeHeader(header));
  header.tensors.push_back({"h", DType::U8, {UINT64_MAX / 8 + 7}, 0, 0});
  expectCode(safetensors::writeHeader(header), Code::sizeOverflow);
}

}  // namespace
}  // namespace lego::testing
