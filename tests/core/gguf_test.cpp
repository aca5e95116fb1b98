// The GGUF container: what the format allows, what is refused, and files that are read bit by bit.

#include "format/gguf.h"
#include "format/container.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/limits.h"
#include "base/random.h"
#include "core/fixtures.h"

namespace lego::testing {
namespace {

using gguf::Array;
using gguf::ReadProgress;
using gguf::Value;
using gguf::ValueType;

/// Bytes of a file, put together by hand.
struct Bytes {
  std::string text;

  template <typename T>
  Bytes& number(T value) {
    text.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Bytes& u32(uint32_t value) { return number(value); }
  Bytes& u64(uint64_t value) { return number(value); }
  Bytes& string(const std::string& value) {
    u64(value.size());
    text += value;
    return *this;
  }
  Bytes& start(uint64_t tensors, uint64_t keyValues, uint32_t version = 3) {
    text += "GGUF";
    return u32(version).u64(tensors).u64(keyValues);
  }
  Bytes& key(const std::string& name, ValueType type) {
    return string(name).u32(static_cast<uint32_t>(type));
  }
  /// Dimensions in the file's order: the fastest first.
  Bytes& tensor(const std::string& name, const std::vector<uint64_t>& dimensions, uint32_t type,
                uint64_t offset) {
    string(name).u32(static_cast<uint32_t>(dimensions.size()));
    for (const uint64_t dimension : dimensions) u64(dimension);
    return u32(type).u64(offset);
  }
  Bytes& pad(size_t alignment = 32) {
    text.resize((text.size() + alignment - 1) / alignment * alignment);
    return *this;
  }
  Bytes& zeros(size_t count) {
    text.append(count, '\0');
    return *this;
  }
};

std::span<const std::byte> spanOf(const std::string& text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

/// Reads as a caller does: a little more each time, never more than is asked for.
Result<gguf::File> readFrom(const std::string& file, size_t first = 0) {
  uint64_t have = std::min(first, file.size());
  for (int round = 0; round < 100; ++round) {
    auto progress = gguf::readHeader(spanOf(file).first(static_cast<size_t>(have)), file.size());
    if (!progress) return progress.error();
    if (progress->file) return std::move(*progress->file);
    EXPECT_GT(progress->needed, have);
    EXPECT_LE(progress->needed, file.size());
    have = progress->needed;
  }
  return Error{Code::internal, "the reader is never content", {}, {}, {}};
}

Result<ReadProgress> readWhole(const std::string& file) {
  return gguf::readHeader(spanOf(file), file.size());
}

/// An adapter of two tensors: F16 2 x 3 and Q8_0 2 x 32.
Bytes smallAdapter() {
  Bytes file;
  file.start(2, 4)
      .key("general.type", ValueType::String)
      .string("adapter")
      .key("general.architecture", ValueType::String)
      .string("llama")
      .key("adapter.lora.alpha", ValueType::Float32)
      .number(16.0f)
      .key("adapter.alora.invocation_tokens", ValueType::Array)
      .u32(4)
      .u64(2)
      .u32(7)
      .u32(9)
      .tensor("blk.0.attn_q.weight.lora_a", {3, 2}, 1, 0)
      .tensor("blk.0.attn_q.weight.lora_b", {32, 2}, 8, 32)
      .pad();
  return file;
}

TEST(Gguf, ReadsAnAdapter) {
  Bytes bytes = smallAdapter();
  const uint64_t data = bytes.text.size();
  bytes.zeros(32 + 68).pad();
  for (const size_t first : {0, 1, 24, 100, 1000}) {
    const auto file = must(readFrom(bytes.text, first));
    ASSERT_EQ(file.header.tensors.size(), 2u);
    const TensorInfo& a = file.header.tensors[0];
    const TensorInfo& b = file.header.tensors[1];
    EXPECT_EQ(a.name, "blk.0.attn_q.weight.lora_a");
    EXPECT_EQ(a.dtype, DType::F16);
    EXPECT_EQ(a.shape, (std::vector<uint64_t>{2, 3}));
    EXPECT_EQ(a.begin, data);
    EXPECT_EQ(a.end, data + 12);
    EXPECT_EQ(b.dtype, DType::Q8_0);
    EXPECT_EQ(b.shape, (std::vector<uint64_t>{2, 32}));
    EXPECT_EQ(b.begin, data + 32);
    EXPECT_EQ(b.end, data + 32 + 68);
    EXPECT_EQ(*gguf::textOf(file.metadata, "general.architecture"), "llama");
    EXPECT_EQ(gguf::numberOf(file.metadata, "adapter.lora.alpha"), 16.0);
    EXPECT_EQ(*gguf::arrayOf(file.metadata, "adapter.alora.invocation_tokens"),
              (Array{ValueType::UInt32, 2, {7, 9}}));
    EXPECT_EQ(gguf::textOf(file.metadata, "general.name"), nullptr);
    EXPECT_EQ(gguf::integerOf(file.metadata, "adapter.lora.alpha"), std::nullopt);
    EXPECT_EQ(gguf::numberOf(file.metadata, "general.type"), std::nullopt);
  }
}

TEST(Gguf, ReadsEveryTypeOfValue) {
  Bytes bytes;
  bytes.start(0, 16, 2)
      .key("u8", ValueType::UInt8)
      .number(uint8_t{200})
      .key("i8", ValueType::Int8)
      .number(int8_t{-3})
      .key("u16", ValueType::UInt16)
      .number(uint16_t{60000})
      .key("i16", ValueType::Int16)
      .number(int16_t{-300})
      .key("u32", ValueType::UInt32)
      .u32(4000000000u)
      .key("i32", ValueType::Int32)
      .number(int32_t{-5})
      .key("u64", ValueType::UInt64)
      .u64(UINT64_MAX)
      .key("i64", ValueType::Int64)
      .number(INT64_MIN)
      .key("f32", ValueType::Float32)
      .number(0.5f)
      .key("f64", ValueType::Float64)
      .number(-0.25)
      .key("yes", ValueType::Bool)
      .number(uint8_t{1})
      .key("text", ValueType::String)
      .string("\xC3\xA9 \xF0\x9F\xA6\x99")
      .key("empty", ValueType::String)
      .string("")
      .key("words", ValueType::Array)
      .u32(8)
      .u64(2)
      .string("a\xFF")  // tokens of a byte vocabulary need not be UTF-8
      .string("")
      .key("heads", ValueType::Array)
      .u32(5)
      .u64(3)
      .number(int32_t{8})
      .number(int32_t{0})
      .number(int32_t{-1})
      .key("scores", ValueType::Array)
      .u32(6)
      .u64(2)
      .number(1.0f)
      .number(2.0f);
  const auto metadata = must(readFrom(bytes.text)).metadata;
  EXPECT_EQ(metadata.size(), 16u);
  EXPECT_EQ(gguf::integerOf(metadata, "u8"), 200u);
  EXPECT_EQ(gguf::integerOf(metadata, "i8"), std::nullopt);
  EXPECT_EQ(gguf::numberOf(metadata, "i8"), -3.0);
  EXPECT_EQ(gguf::integerOf(metadata, "u16"), 60000u);
  EXPECT_EQ(gguf::numberOf(metadata, "i16"), -300.0);
  EXPECT_EQ(gguf::integerOf(metadata, "u32"), 4000000000u);
  EXPECT_EQ(gguf::numberOf(metadata, "i32"), -5.0);
  EXPECT_EQ(gguf::integerOf(metadata, "u64"), UINT64_MAX);
  EXPECT_EQ(metadata.find("i64")->second, Value(INT64_MIN));
  EXPECT_EQ(gguf::numberOf(metadata, "f32"), 0.5);
  EXPECT_EQ(gguf::numberOf(metadata, "f64"), -0.25);
  EXPECT_EQ(metadata.find("yes")->second, Value(true));
  EXPECT_EQ(gguf::numberOf(metadata, "yes"), std::nullopt);
  EXPECT_EQ(*gguf::textOf(metadata, "text"), "\xC3\xA9 \xF0\x9F\xA6\x99");
  EXPECT_EQ(*gguf::textOf(metadata, "empty"), "");
  EXPECT_EQ(*gguf::arrayOf(metadata, "words"), (Array{ValueType::String, 2, {}}));
  EXPECT_EQ(*gguf::arrayOf(metadata, "heads"), (Array{ValueType::Int32, 3, {8, 0, -1}}));
  EXPECT_EQ(*gguf::arrayOf(metadata, "scores"), (Array{ValueType::Float32, 2, {}}));
}

// Sizes as the structs of ggml-common.h add them up: scales, minima, high bits, quants.
TEST(Gguf, KnowsEveryTypeOfTensor) {
  const struct {
    uint32_t type;
    const char* name;
    uint64_t block, bytes;
  } kTypes[] = {
      {0, "F32", 1, 4},
      {1, "F16", 1, 2},
      {2, "Q4_0", 32, 2 + 16},
      {3, "Q4_1", 32, 2 + 2 + 16},
      {6, "Q5_0", 32, 2 + 4 + 16},
      {7, "Q5_1", 32, 2 + 2 + 4 + 16},
      {8, "Q8_0", 32, 2 + 32},
      {9, "Q8_1", 32, 2 + 2 + 32},
      {10, "Q2_K", 256, 2 + 2 + 256 / 16 + 256 / 4},
      {11, "Q3_K", 256, 2 + 256 / 4 + 256 / 8 + 12},
      {12, "Q4_K", 256, 2 + 2 + 256 / 2 + 12},
      {13, "Q5_K", 256, 2 + 2 + 256 / 2 + 256 / 8 + 12},
      {14, "Q6_K", 256, 2 + 256 / 2 + 256 / 4 + 256 / 16},
      {15, "Q8_K", 256, 4 + 256 + 256 / 8},
      {16, "IQ2_XXS", 256, 2 + 256 / 4},
      {17, "IQ2_XS", 256, 2 + 256 / 4 + 256 / 32},
      {18, "IQ3_XXS", 256, 2 + 256 / 4 + 256 / 8},
      {19, "IQ1_S", 256, 2 + 256 / 8 + 256 / 16},
      {20, "IQ4_NL", 32, 2 + 16},
      {21, "IQ3_S", 256, 2 + 256 / 4 + 256 / 8 + 256 / 32 + 4},
      {22, "IQ2_S", 256, 2 + 256 / 4 + 256 / 16},
      {23, "IQ4_XS", 256, 2 + 2 + 256 / 2 + 256 / 64},
      {24, "I8", 1, 1},
      {25, "I16", 1, 2},
      {26, "I32", 1, 4},
      {27, "I64", 1, 8},
      {28, "F64", 1, 8},
      {29, "IQ1_M", 256, 256 / 8 + 256 / 16 + 256 / 32},
      {30, "BF16", 1, 2},
      {34, "TQ1_0", 256, 2 + 4 * 13},
      {35, "TQ2_0", 256, 2 + 64},
      {39, "MXFP4", 32, 1 + 16},
      {40, "NVFP4", 64, 4 + 32},
      {41, "Q1_0", 128, 2 + 16},
  };
  const auto fileOf = [](uint32_t type, uint64_t side) {
    return Bytes().start(1, 0).tensor("t", {side, 3}, type, 0).pad().zeros(9000).text;
  };
  std::vector<bool> known(60);
  for (const auto& expected : kTypes) {
    known[expected.type] = true;
    const auto file = must(readFrom(fileOf(expected.type, 2 * expected.block)));
    ASSERT_EQ(file.header.tensors.size(), 1u) << expected.name;
    const TensorInfo& tensor = file.header.tensors[0];
    EXPECT_EQ(nameOf(tensor.dtype), expected.name);
    EXPECT_EQ(tensor.end - tensor.begin, 6 * expected.bytes) << expected.name;
    if (expected.block > 1)
      expectCode(readFrom(fileOf(expected.type, 3 * expected.block / 2)), Code::sizeMismatch);
  }
  for (uint32_t type = 0; type < known.size(); ++type) {
    if (!known[type]) expectCode(readFrom(fileOf(type, 256)), Code::unknownDtype);
  }
  expectCode(readFrom(fileOf(UINT32_MAX, 256)), Code::unknownDtype);
}

TEST(Gguf, RefusesOtherVersionsAndFiles) {
  const auto version = [](uint32_t number) { return Bytes().start(0, 0, number).zeros(8).text; };
  EXPECT_TRUE(readFrom(version(2)));
  EXPECT_TRUE(readFrom(version(3)));
  for (const uint32_t number : {0u, 1u, 4u, 0x03000000u, 0x02000000u, UINT32_MAX})
    expectCode(readFrom(version(number)), Code::unknownFormat);
  EXPECT_NE(expectCode(readFrom(version(0x03000000u)), Code::unknownFormat).find("big-endian"),
            std::string::npos);
  expectCode(readFrom("GGML" + std::string(40, '\0')), Code::unknownFormat);
  expectCode(readFrom(""), Code::fileTruncated);
  expectCode(readFrom("GGUF\x03"), Code::fileTruncated);
}

TEST(Gguf, RefusesBadMetadata) {
  const auto pair = [](const std::string& key, uint32_t type) {
    return Bytes().start(0, 1).string(key).u32(type);
  };
  const auto text = [&](const std::string& value) { return pair("k", 8).string(value).text; };
  EXPECT_TRUE(readFrom(text("good")));
  for (const std::string& bad :
       {std::string("\xFF"), std::string("\x80"), std::string("\xC3"), std::string("\xC0\x80"),
        std::string("\xE0\x80\x80"), std::string("\xED\xA0\x80"), std::string("\xF4\x90\x80\x80"),
        std::string("\xF0\x80\x80\x80"), std::string("\xC3("), std::string("a\0b", 3)})
    expectCode(readFrom(text(bad)), Code::badHeader);
  for (const std::string& key : {std::string(), std::string("\xC3\xA9"), std::string("a\nb"),
                                 std::string("a\0", 2), std::string(65536, 'k')})
    expectCode(readFrom(pair(key, 0).number(uint8_t{1}).zeros(8).text), Code::badHeader);
  EXPECT_TRUE(readFrom(pair(std::string(65535, 'k'), 0).number(uint8_t{1}).text));
  expectCode(readFrom(pair("b", 7).number(uint8_t{2}).text), Code::badHeader);
  for (const uint32_t type : {13u, 255u, UINT32_MAX})
    expectCode(readFrom(pair("k", type).u64(0).text), Code::badHeader);
  // Arrays of arrays, of no type, of more than there is.
  for (const uint32_t type : {9u, 13u, UINT32_MAX})
    expectCode(readFrom(pair("k", 9).u32(type).u64(1).zeros(64).text), Code::badHeader);
  for (const uint64_t count :
       {uint64_t{9}, uint64_t{1} << 32, uint64_t{1} << 61, uint64_t{1} << 62, UINT64_MAX}) {
    for (const uint32_t type : {0u, 4u, 8u, 12u})
      expectCode(readFrom(pair("k", 9).u32(type).u64(count).zeros(8).text), Code::fileTruncated);
  }
  expectCode(readFrom(pair("k", 8).u64(UINT64_MAX).zeros(8).text), Code::fileTruncated);
  expectCode(readFrom(Bytes().start(0, 1).u64(UINT64_MAX).zeros(64).text), Code::fileTruncated);
  expectCode(
      readFrom(
          Bytes().start(0, 2).key("k", ValueType::UInt8).zeros(1).key("k", ValueType::Int8).zeros(1).text),
      Code::badHeader);
}

TEST(Gguf, RefusesCountsThatNoFileOfItsSizeHolds) {
  for (const uint64_t count :
       {uint64_t{5}, uint64_t{1} << 31, uint64_t{1} << 60, UINT64_MAX / 14 + 1, UINT64_MAX}) {
    expectCode(readFrom(Bytes().start(0, count).zeros(40).text), Code::fileTruncated);
    expectCode(readFrom(Bytes().start(count, 0).zeros(40).text), Code::fileTruncated);
    expectCode(readFrom(Bytes().start(count, count).zeros(40).text), Code::fileTruncated);
  }
  // The file is large enough, the header is not allowed to be: told from its first bytes.
  const std::string start = Bytes().start(1 << 22, 0).text;
  expectCode(gguf::readHeader(spanOf(start), UINT64_MAX), Code::headerTooLarge);
  const std::string array =
      Bytes().start(0, 1).key("k", ValueType::Array).u32(0).u64(limits::kGgufHeaderBytes).text;
  expectCode(gguf::readHeader(spanOf(array), UINT64_MAX), Code::headerTooLarge);
  const std::string text = Bytes().start(0, 1).key("k", ValueType::String).u64(UINT64_MAX - 100).text;
  expectCode(gguf::readHeader(spanOf(text), UINT64_MAX), Code::headerTooLarge);
}

TEST(Gguf, RefusesBadTensors) {
  const auto one = [](const std::string& name, const std::vector<uint64_t>& dimensions, uint32_t type = 0,
                      uint64_t offset = 0) {
    return readFrom(Bytes().start(1, 0).tensor(name, dimensions, type, offset).pad().zeros(256).text);
  };
  EXPECT_TRUE(one("t", {}));
  EXPECT_TRUE(one("t", {1, 1, 1, 1}));
  EXPECT_TRUE(one(std::string(64, 't'), {4}));
  EXPECT_TRUE(one("\xC3\xA9", {4}));
  expectCode(one("", {4}), Code::badHeader);
  expectCode(one(std::string(65, 't'), {4}), Code::badHeader);
  expectCode(one(std::string("t\0", 2), {4}), Code::badHeader);
  expectCode(one("t\xFF", {4}), Code::badHeader);
  expectCode(one("t", {1, 1, 1, 1, 1}), Code::badHeader);
  expectCode(one("t", {4, 0}), Code::badHeader);
  expectCode(one("t", {uint64_t{1} << 32, uint64_t{1} << 32}), Code::sizeOverflow);
  expectCode(one("t", {uint64_t{1} << 62}), Code::sizeOverflow);
  expectCode(one("t", {UINT64_MAX}, 24), Code::sizeOverflow);  // 2^64 - 1 bytes, and the header in front
  expectCode(one("t", {65}), Code::fileTruncated);
  expectCode(one("t", {uint64_t{1} << 40}), Code::fileTruncated);
  expectCode(one("t", {4}, 0, 8), Code::badOffsets);
  expectCode(one("t", {4}, 0, 32), Code::tensorHole);
  expectCode(one("t", {4}, 0, UINT64_MAX - 31), Code::tensorHole);
  expectCode(one("t", {4}, 0, UINT64_MAX - 7), Code::sizeOverflow);

  const auto two = [](const std::string& second, uint64_t offset, size_t data = 256) {
    return readFrom(
        Bytes().start(2, 0).tensor("t", {9}, 0, 0).tensor(second, {1}, 0, offset).pad().zeros(data).text);
  };
  EXPECT_TRUE(two("u", 64));
  EXPECT_TRUE(two("u", 64, 68));  // without the last tensor's padding, which llama.cpp does not need
  expectCode(two("u", 64, 67), Code::fileTruncated);
  expectCode(two("t", 64), Code::duplicateTensor);
  expectCode(two("u", 0), Code::tensorOverlap);
  expectCode(two("u", 32), Code::tensorOverlap);
  expectCode(two("u", 96), Code::tensorHole);
}

TEST(Gguf, FollowsTheFilesAlignment) {
  const auto aligned = [](uint32_t alignment, uint64_t second, ValueType type = ValueType::UInt32) {
    return readFrom(Bytes()
                        .start(2, 1)
                        .key("general.alignment", type)
                        .u32(alignment)
                        .tensor("t", {1}, 0, 0)
                        .tensor("u", {1}, 0, second)
                        .pad(alignment > 0 && alignment < 4096 ? alignment : 32)
                        .zeros(256)
                        .text);
  };
  for (const uint32_t alignment : {8u, 16u, 32u, 64u, 128u}) {
    const auto file = must(aligned(alignment, alignment));
    ASSERT_EQ(file.header.tensors.size(), 2u);
    EXPECT_EQ(file.header.tensors[0].begin % alignment, 0u);
    EXPECT_EQ(file.header.tensors[1].begin, file.header.tensors[0].begin + alignment);
  }
  expectCode(aligned(64, 32), Code::badOffsets);
  for (const uint32_t alignment : {0u, 1u, 4u, 24u, 33u, UINT32_MAX})
    expectCode(aligned(alignment, 32), Code::badHeader);
  expectCode(aligned(32, 32, ValueType::Int32), Code::badHeader);
  expectCode(aligned(uint32_t{1} << 31, uint64_t{1} << 31), Code::fileTruncated);
}

// A file that ends early is refused as such, wherever it ends; a prefix of a whole one asks for more.
TEST(Gguf, EveryTruncation) {
  Bytes bytes = smallAdapter();
  const size_t data = bytes.text.size();
  bytes.zeros(32 + 68);
  ASSERT_TRUE(readWhole(bytes.text));
  for (size_t length = 0; length < bytes.text.size(); ++length) {
    // From a copy of just this length, so that the sanitizer sees what is read beyond it.
    const std::string part(bytes.text.data(), length);
    expectCode(readFrom(part), Code::fileTruncated);
    const auto progress = gguf::readHeader(spanOf(part), bytes.text.size());
    ASSERT_TRUE(progress) << length;
    if (progress->file) {
      EXPECT_GE(length, data - 31) << length;
      continue;
    }
    EXPECT_LT(length, data);
    EXPECT_GT(progress->needed, length);
    EXPECT_LE(progress->needed, bytes.text.size());
    EXPECT_GE(progress->needed, std::min<uint64_t>(2 * length, bytes.text.size()));
  }
}

void expectSound(const std::string& file) {
  const auto header = readFrom(file, 40);
  if (!header) {
    EXPECT_FALSE(describe(header.error()).empty());
    return;
  }
  for (const TensorInfo& tensor : header->header.tensors) {
    EXPECT_LE(tensor.begin, tensor.end);
    EXPECT_LE(tensor.end, file.size());
    EXPECT_EQ(bytesOf(tensor.dtype, tensor.shape), tensor.end - tensor.begin);
  }
}

TEST(Gguf, EveryFlippedBit) {
  Bytes bytes = smallAdapter();
  const size_t header = bytes.text.size();
  bytes.zeros(32 + 68).pad();
  for (size_t at = 0; at < header; ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = bytes.text;
      flipped[at] = static_cast<char>(flipped[at] ^ (1 << bit));
      expectSound(flipped);
    }
  }
}

TEST(Gguf, RandomDamage) {
  Random random(21);
  const std::string good = smallAdapter().zeros(32 + 68).pad().text;
  constexpr unsigned char kAwkward[] = {0, 1, 0x7F, 0x80, 0xFF};
  for (int round = 0; round < 20'000; ++round) {
    std::string bad = good;
    for (uint64_t changes = 1 + random.below(4); changes > 0; --changes) {
      const uint64_t at = random.below(bad.size()), run = 1 + random.below(8);
      for (uint64_t i = at; i < std::min<uint64_t>(at + run, bad.size()); ++i)
        bad[i] = static_cast<char>(random.below(2) ? kAwkward[random.below(5)] : random.below(256));
    }
    if (random.below(4) == 0) bad.resize(random.below(bad.size() + 1));
    expectSound(bad);
  }
}

// The header of a base model: megabytes of vocabulary, which are passed over in few rounds.
TEST(Gguf, PassesOverAVocabulary) {
  constexpr uint64_t kTokens = 256'000;
  Bytes bytes;
  bytes.start(1, 4).key("general.architecture", ValueType::String).string("gemma2");
  bytes.key("tokenizer.ggml.tokens", ValueType::Array).u32(8).u64(kTokens);
  for (uint64_t i = 0; i < kTokens; ++i) bytes.string("token" + std::to_string(i));
  bytes.key("tokenizer.ggml.scores", ValueType::Array).u32(6).u64(kTokens).zeros(4 * kTokens);
  bytes.key("tokenizer.ggml.token_type", ValueType::Array).u32(5).u64(kTokens).zeros(4 * kTokens);
  bytes.tensor("token_embd.weight", {256, 2}, 14, 0).pad().zeros(420);
  uint64_t have = 65536, rounds = 0;
  for (;; ++rounds) {
    auto progress = must(gguf::readHeader(spanOf(bytes.text).first(have), bytes.text.size()));
    if (progress.file) {
      EXPECT_EQ(progress.needed, 0u);
      EXPECT_EQ(*gguf::arrayOf(progress.file->metadata, "tokenizer.ggml.tokens"),
                (Array{ValueType::String, kTokens, {}}));
      EXPECT_EQ(*gguf::arrayOf(progress.file->metadata, "tokenizer.ggml.token_type"),
                (Array{ValueType::Int32, kTokens, {}}));
      EXPECT_EQ(progress.file->header.tensors.at(0).dtype, DType::Q6_K);
      break;
    }
    ASSERT_GT(progress.needed, have);
    have = progress.needed;
  }
  EXPECT_LE(rounds, 8u);
}

TEST(Gguf, WritesByteForByte) {
  Header header;
  header.tensors = {{"blk.0.attn_q.weight.lora_a", DType::F16, {2, 3}, 0, 0},
                    {"blk.0.attn_q.weight.lora_b", DType::Q8_0, {2, 32}, 0, 0}};
  const std::string text = must(
      gguf::writeHeader(header, {{"general.type", std::string("adapter")},
                                 {"general.architecture", std::string("llama")},
                                 {"adapter.lora.alpha", 16.0f},
                                 {"adapter.alora.invocation_tokens", Array{ValueType::UInt32, 2, {7, 9}}}}));
  const std::string expected = smallAdapter().text;
  EXPECT_EQ(text, expected);
  EXPECT_EQ(header.tensors[0].begin, expected.size());
  EXPECT_EQ(header.tensors[0].end, expected.size() + 12);
  EXPECT_EQ(header.tensors[1].begin, expected.size() + 12 + gguf::paddingAfter(12));
  EXPECT_EQ(header.tensors[1].end, expected.size() + 32 + 68);
  EXPECT_EQ(gguf::paddingAfter(68), 28u);
  EXPECT_EQ(gguf::paddingAfter(0), 0u);
  EXPECT_EQ(gguf::paddingAfter(64), 0u);
}

TEST(Gguf, ReadsWhatItWrites) {
  Header header;
  header.tensors = {{std::string(63, 'n'), DType::BF16, {3, 5}, 0, 0},
                    {"\xC3\xA9", DType::F64, {}, 0, 0},
                    {"four", DType::F32, {2, 1, 3, 4}, 0, 0},
                    {"whole", DType::F32, {8}, 0, 0},
                    {"q", DType::Q4_K, {1, 512}, 0, 0}};
  const std::vector<std::pair<std::string, Value>> metadata = {
      {"z", uint32_t{7}},
      {"b", true},
      {"s", std::string("\xC3\xA9")},
      {"i", int32_t{-7}},
      {"u", UINT64_MAX},
      {"l", INT64_MIN},
      {"d", 0.1},
      {"f", 0.1f},
      {"bytes", Array{ValueType::UInt8, 3, {0, 255, 7}}},
      {"signed", Array{ValueType::Int16, 2, {-32768, 32767}}},
      {"none", Array{ValueType::Int32, 0, {}}}};
  std::string file = must(gguf::writeHeader(header, metadata));
  EXPECT_EQ(file.size() % 32, 0u);
  for (const TensorInfo& tensor : header.tensors) {
    EXPECT_EQ(tensor.begin, file.size()) << tensor.name;
    const uint64_t bytes = tensor.end - tensor.begin;
    file.append(bytes + gguf::paddingAfter(bytes), 'x');
  }
  const auto back = must(readFrom(file));
  EXPECT_EQ(back.metadata, gguf::Metadata(metadata.begin(), metadata.end()));
  ASSERT_EQ(back.header.tensors.size(), header.tensors.size());
  for (size_t i = 0; i < header.tensors.size(); ++i) {
    EXPECT_EQ(back.header.tensors[i].name, header.tensors[i].name);
    EXPECT_EQ(back.header.tensors[i].dtype, header.tensors[i].dtype);
    EXPECT_EQ(back.header.tensors[i].shape, header.tensors[i].shape);
    EXPECT_EQ(back.header.tensors[i].begin, header.tensors[i].begin);
    EXPECT_EQ(back.header.tensors[i].end, header.tensors[i].end);
  }
}

TEST(Gguf, WritesNothingThatWouldNotLoad) {
  const auto write = [](TensorInfo tensor) {
    Header header;
    header.tensors = {std::move(tensor)};
    return gguf::writeHeader(header, {});
  };
  EXPECT_TRUE(write({std::string(63, 'n'), DType::F32, {1}, 0, 0}));
  expectCode(write({std::string(64, 'n'), DType::F32, {1}, 0, 0}), Code::notExpressible);
  expectCode(write({"", DType::F32, {1}, 0, 0}), Code::notExpressible);
  expectCode(write({std::string("a\0", 2), DType::F32, {1}, 0, 0}), Code::notExpressible);
  expectCode(write({"\xFF", DType::F32, {1}, 0, 0}), Code::notExpressible);
  expectCode(write({"t", DType::F32, {1, 1, 1, 1, 1}, 0, 0}), Code::notExpressible);
  expectCode(write({"t", DType::F32, {3, 0}, 0, 0}), Code::notExpressible);
  expectCode(write({"t", DType::F8E4M3, {3}, 0, 0}), Code::notExpressible);
  expectCode(write({"t", DType::Bool, {3}, 0, 0}), Code::notExpressible);
  expectCode(write({"t", DType::Q8_0, {32, 16}, 0, 0}), Code::notExpressible);
  expectCode(write({"t", DType::F32, {uint64_t{1} << 40, uint64_t{1} << 40}, 0, 0}), Code::sizeOverflow);
  expectCode(write({"t", DType::I8, {UINT64_MAX - 3}, 0, 0}), Code::sizeOverflow);

  Header twice;
  twice.tensors = {{"t", DType::F32, {1}, 0, 0}, {"t", DType::F32, {1}, 0, 0}};
  expectCode(gguf::writeHeader(twice, {}), Code::duplicateTensor);

  const auto with = [](const std::vector<std::pair<std::string, Value>>& metadata) {
    Header header;
    return gguf::writeHeader(header, metadata);
  };
  EXPECT_TRUE(with({{"k", true}}));
  expectCode(with({{"k", true}, {"k", false}}), Code::internal);
  expectCode(with({{"", true}}), Code::internal);
  expectCode(with({{"general.alignment", uint32_t{32}}}), Code::internal);
  expectCode(with({{"k", std::string("\xFF")}}), Code::notExpressible);
  expectCode(with({{"k", std::string("a\0b", 3)}}), Code::notExpressible);
  expectCode(with({{"k", Array{ValueType::UInt32, 2, {1}}}}), Code::internal);
  expectCode(with({{"k", Array{ValueType::UInt8, 1, {256}}}}), Code::internal);
  expectCode(with({{"k", Array{ValueType::String, 0, {}}}}), Code::internal);
}

// Found by fuzzing: the identifier of .onnx_adapter files in the place of the version.
TEST(Gguf, IsToldByItsMagicWhateverStandsBehindIt) {
  const std::string text = "GGUFTORT" + std::string(24, '\0');
  const auto bytes = std::as_bytes(std::span(text));
  const auto asContainer = headerNeeds(bytes, bytes.size());
  const auto asGguf = gguf::readHeader(bytes, bytes.size());
  ASSERT_FALSE(asContainer);
  ASSERT_FALSE(asGguf);
  EXPECT_EQ(describe(asContainer.error()), describe(asGguf.error()));
}

}  // namespace
}  // namespace lego::testing
