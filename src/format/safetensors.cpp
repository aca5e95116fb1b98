#include "format/safetensors.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "base/limits.h"
#include "base/order.h"
#include "format/json.h"

namespace lego::safetensors {
namespace {

Error fail(Code code, std::string detail, std::string tensor = {}, std::optional<uint64_t> offset = {}) {
  return {code, std::move(detail), {}, std::move(tensor), offset};
}

uint64_t readLittleEndian(std::span<const std::byte> bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < kPrefixBytes; ++i) value |= static_cast<uint64_t>(bytes[i]) << (8 * i);
  return value;
}

bool startsWith(std::span<const std::byte> bytes, std::string_view text) {
  return bytes.size() >= text.size() && std::memcmp(bytes.data(), text.data(), text.size()) == 0;
}

/// A zip archive (PyTorch since 1.6) or a bare pickle of protocol 2 to 5. Their first bytes could also be a
/// header's length, such as 640; of that the upper bytes are zero, which in those files they never are.
bool looksLikePickle(std::span<const std::byte> prefix) {
  if (prefix.size() < kPrefixBytes) return false;
  const auto isZero = [](std::byte b) { return b == std::byte{0}; };
  if (std::ranges::all_of(prefix.subspan(4, 4), isZero)) return false;
  return startsWith(prefix, "PK\x03\x04") ||
         (prefix[0] == std::byte{0x80} && prefix[1] >= std::byte{2} && prefix[1] <= std::byte{5});
}

/// Reads the header's JSON as events, so that a header of many megabytes never becomes a tree.
class HeaderReader final : public JsonEvents {
 public:
  explicit HeaderReader(uint64_t dataBegin) : dataBegin_(dataBegin) {}

  Header header;
  Error error = fail(Code::badHeader, "the header is not valid JSON");

  bool start_object(std::size_t) override {
    if (skipping_ > 0) return ++skipping_, true;
    switch (place_) {
      case Place::Start: return place_ = Place::Top, true;
      case Place::Entry: return beginEntry();
      case Place::MetadataObject: return place_ = Place::Metadata, true;
      case Place::Field: return beginSkipped();
      default: return unexpected("an object");
    }
  }
  bool end_object() override {
    if (skipping_ > 0) return endSkipped();
    switch (place_) {
      case Place::Top: return place_ = Place::Done, true;
      case Place::Metadata: return place_ = Place::Top, true;
      case Place::Fields: return place_ = Place::Top, endEntry();
      default: return unexpected("the end of an object");
    }
  }
  bool start_array(std::size_t) override {
    if (skipping_ > 0) return ++skipping_, true;
    if (place_ == Place::Field && field_ == "shape") return place_ = Place::Shape, true;
    if (place_ == Place::Field && field_ == "data_offsets") return place_ = Place::Offsets, true;
    if (place_ == Place::Field && !isKnownField()) return beginSkipped();
    return unexpected("an array");
  }
  bool end_array() override {
    if (skipping_ > 0) return endSkipped();
    return place_ = Place::Fields, true;
  }
  bool key(string_t& name) override {
    if (skipping_ > 0) return true;
    switch (place_) {
      case Place::Top:
        if (name == "__metadata__") {
          if (hasMetadata_) return refuse("__metadata__ occurs twice");
          return hasMetadata_ = true, place_ = Place::MetadataObject, true;
        }
        tensor_ = {};
        tensor_.name = std::move(name);
        return place_ = Place::Entry, true;
      case Place::Metadata:
        header.metadata.emplace_back(std::move(name), std::string());
        return place_ = Place::MetadataValue, true;
      default: field_ = std::move(name); return place_ = Place::Field, beginField();
    }
  }
  bool string(string_t& value) override {
    if (skipping_ > 0) return true;
    if (place_ == Place::MetadataValue) {
      header.metadata.back().second = std::move(value);
      return place_ = Place::Metadata, true;
    }
    if (place_ != Place::Field) return unexpected("a string");
    place_ = Place::Fields;
    if (field_ != "dtype") return isKnownField() ? unexpected("a string") : true;
    const auto dtype = dtypeOf(value);
    if (!dtype)
      return stop(fail(Code::unknownDtype, "the format knows no dtype " + shownName(value), tensor_.name));
    return tensor_.dtype = *dtype, true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (skipping_ > 0) return true;
    if (place_ == Place::Shape) {
      if (tensor_.shape.size() == limits::kDimensions)
        return refuse("more than " + std::to_string(limits::kDimensions) + " dimensions");
      return tensor_.shape.push_back(value), true;
    }
    if (place_ == Place::Offsets) {
      if (offsets_.size() == 2) return refuse("data_offsets has more than two numbers");
      return offsets_.push_back(value), true;
    }
    return scalar("a number");
  }
  bool number_integer(number_integer_t) override { return scalar("a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    return scalar("a number that is no integer, or does not fit 64 bits,");
  }
  bool boolean(bool) override { return scalar("a boolean"); }
  bool null() override { return scalar("null"); }
  bool binary(binary_t&) override { return scalar("binary data"); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return stop(fail(Code::badHeader, "the header is not valid JSON", {}, kPrefixBytes + position));
  }

  bool done() const { return place_ == Place::Done; }

 private:
  enum class Place {
    Start,
    Top,
    Entry,
    Fields,
    Field,
    Shape,
    Offsets,
    MetadataObject,
    Metadata,
    MetadataValue,
    Done
  };

  bool stop(Error why) {
    error = std::move(why);
    return false;
  }
  bool refuse(const std::string& why) {
    return stop(fail(Code::badHeader, "the header is wrong: " + why, tensor_.name));
  }
  bool unexpected(const std::string& what) { return refuse(what + " stands where the format has none"); }

  bool isKnownField() const { return field_ == "dtype" || field_ == "shape" || field_ == "data_offsets"; }

  bool beginEntry() {
    hasDtype_ = hasShape_ = hasOffsets_ = false;
    offsets_.clear();
    return place_ = Place::Fields, true;
  }
  bool beginField() {
    if (!isKnownField()) return true;
    bool& seen = field_ == "dtype" ? hasDtype_ : field_ == "shape" ? hasShape_ : hasOffsets_;
    if (seen) return refuse("the field " + field_ + " occurs twice");
    return seen = true;
  }
  // Values of fields that the format does not know are passed over, as the reference reader does.
  bool beginSkipped() {
    if (isKnownField()) return unexpected("an object");
    return skipping_ = 1, true;
  }
  bool endSkipped() {
    if (--skipping_ == 0) place_ = Place::Fields;
    return true;
  }
  bool scalar(const std::string& what) {
    if (skipping_ > 0) return true;
    if (place_ == Place::Field && !isKnownField()) return place_ = Place::Fields, true;
    return unexpected(what);
  }

  bool endEntry() {
    if (!hasDtype_ || !hasShape_ || !hasOffsets_ || offsets_.size() != 2)
      return refuse("dtype, shape or data_offsets is missing");
    const uint64_t begin = offsets_[0], end = offsets_[1];
    if (end < begin)
      return stop(
          fail(Code::badOffsets,
               "the tensor ends at " + std::to_string(end) + ", before it begins at " + std::to_string(begin),
               tensor_.name));
    std::optional<uint64_t> bits = bitsOf(tensor_.dtype);
    for (const uint64_t side : tensor_.shape) bits = bits ? checkedMultiply(*bits, side) : bits;
    const auto last = checkedAdd(end, dataBegin_);
    if (!bits || !last)
      return stop(fail(Code::sizeOverflow, "the tensor's size does not fit 64 bits", tensor_.name));
    if (*bits % 8 != 0 || *bits / 8 != end - begin) {
      return stop(fail(Code::sizeMismatch,
                       "shape and dtype need " + std::to_string(*bits / 8) + " bytes, but the offsets span " +
                           std::to_string(end - begin),
                       tensor_.name, dataBegin_ + begin));
    }
    tensor_.begin = dataBegin_ + begin;
    tensor_.end = *last;
    header.tensors.push_back(std::move(tensor_));
    return true;
  }

  const uint64_t dataBegin_;
  Place place_ = Place::Start;
  size_t skipping_ = 0;  // open brackets inside a value that is passed over
  bool hasMetadata_ = false, hasDtype_ = false, hasShape_ = false, hasOffsets_ = false;
  TensorInfo tensor_;
  std::string field_;
  std::vector<uint64_t> offsets_;
};

/// Names once each; then, sorted by place, every byte of the data belongs to exactly one tensor.
Status checkLayout(Header& header, uint64_t dataBegin, uint64_t fileSize) {
  auto& tensors = header.tensors;
  const auto byName =
      orderOf(tensors.size(), [&](size_t i, size_t j) { return tensors[i].name < tensors[j].name; });
  for (size_t i = 1; i < byName.size(); ++i) {
    const auto& name = tensors[byName[i]].name;
    if (tensors[byName[i - 1]].name == name)
      return fail(Code::duplicateTensor, "the name occurs twice in the header", name);
  }
  sortByPlace(tensors);
  uint64_t position = dataBegin;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.begin < position)
      return fail(Code::tensorOverlap, "the tensor shares bytes with the one before it", tensor.name,
                  tensor.begin);
    if (tensor.begin > position)
      return fail(Code::tensorHole, "the bytes in front of the tensor belong to none", tensor.name, position);
    position = tensor.end;
  }
  if (position > fileSize) {
    const std::string last = tensors.empty() ? std::string() : tensors.back().name;
    return fail(Code::fileTruncated,
                "the file has " + std::to_string(fileSize) + " bytes, but its header promises " +
                    std::to_string(position) + "; download or copy it again",
                last, fileSize);
  }
  if (position < fileSize)
    return fail(Code::trailingBytes, std::to_string(fileSize - position) + " bytes follow the last tensor",
                {}, position);
  return {};
}

}  // namespace

Result<uint64_t> headerSize(std::span<const std::byte> prefix, uint64_t fileSize) {
  if (looksLikePickle(prefix)) {
    return fail(Code::pickleFile,
                "this is a Python pickle (.bin, .pt, .ckpt), which can run code when it is opened; convert "
                "it to safetensors with a tool you trust");
  }
  if (startsWith(prefix, "GGUF"))
    return fail(Code::unknownFormat, "this is a GGUF file; only safetensors files are read");
  if (startsWith(prefix, "version "))
    return fail(Code::unknownFormat,
                "this looks like a Git LFS pointer, not the file itself; fetch it with 'git lfs pull'");
  if (fileSize < kPrefixBytes || prefix.size() < kPrefixBytes) {
    return fail(Code::fileTruncated,
                "the file has " + std::to_string(fileSize) + " bytes, too few for a safetensors file", {},
                fileSize);
  }
  const uint64_t size = readLittleEndian(prefix);
  if (size > limits::kHeaderBytes) {
    return fail(Code::headerTooLarge,
                "the header claims " + std::to_string(size) + " bytes; the format allows " +
                    std::to_string(limits::kHeaderBytes) + " (is this a safetensors file?)",
                {}, 0);
  }
  if (size > fileSize - kPrefixBytes) {
    return fail(Code::fileTruncated,
                "the header claims " + std::to_string(size) + " bytes, but only " +
                    std::to_string(fileSize - kPrefixBytes) + " follow; download or copy the file again",
                {}, fileSize);
  }
  return kPrefixBytes + size;
}

Result<Header> readHeader(std::span<const std::byte> bytes, uint64_t fileSize) {
  const auto size = headerSize(bytes.first(std::min(bytes.size(), kPrefixBytes)), fileSize);
  if (!size) return size.error();
  if (bytes.size() != *size) return fail(Code::internal, "the header was not read whole");
  const auto* text = reinterpret_cast<const char*>(bytes.data());
  // The README's rule; the JSON library would pass over leading space.
  if (*size > kPrefixBytes && text[kPrefixBytes] != '{')
    return fail(Code::badHeader, "the header does not begin with '{'", {}, kPrefixBytes);
  if (const size_t nul = findNul({text + kPrefixBytes, bytes.size() - kPrefixBytes});
      nul != std::string_view::npos)
    return fail(Code::badHeader, "the header is not valid JSON: it holds a NUL byte", {}, kPrefixBytes + nul);
  HeaderReader reader(*size);
  if (!readJson({text + kPrefixBytes, bytes.size() - kPrefixBytes}, reader) || !reader.done())
    return reader.error;
  if (Status sound = checkLayout(reader.header, *size, fileSize); !sound) return sound.error();
  return std::move(reader.header);
}

Result<std::string> writeHeader(Header& header) {
  std::string json = "{";
  if (!header.metadata.empty()) {
    json += "\"__metadata__\":{";
    for (size_t i = 0; i < header.metadata.size(); ++i) {
      if (i > 0) json += ',';
      json += jsonQuoted(header.metadata[i].first) + ":" + jsonQuoted(header.metadata[i].second);
    }
    json += '}';
  }
  uint64_t position = 0;
  for (TensorInfo& tensor : header.tensors) {
    if (!dtypeOf(nameOf(tensor.dtype)))
      return fail(Code::badDtype, "safetensors has no dtype " + std::string(nameOf(tensor.dtype)),
                  tensor.name);
    // In bits, because elements of F4 and F6 do not fill bytes.
    std::optional<uint64_t> bits = bitsOf(tensor.dtype);
    std::string shape;
    for (const uint64_t side : tensor.shape) {
      bits = bits ? checkedMultiply(*bits, side) : bits;
      shape += (shape.empty() ? "" : ",") + std::to_string(side);
    }
    if (bits && *bits % 8 != 0)
      return fail(Code::sizeMismatch, "the tensor does not fill whole bytes", tensor.name);
    const auto end = bits ? checkedAdd(position, *bits / 8) : bits;
    if (!end) return fail(Code::sizeOverflow, "the merged tensor's size does not fit 64 bits", tensor.name);
    if (json.size() > 1) json += ',';
    json += jsonQuoted(tensor.name) + ":{\"dtype\":\"" + std::string(nameOf(tensor.dtype)) +
            "\",\"shape\":[" + shape + "],\"data_offsets\":[" + std::to_string(position) + "," +
            std::to_string(*end) + "]}";
    tensor.begin = position;
    tensor.end = *end;
    position = *end;
  }
  json += '}';
  json.append((8 - json.size() % 8) % 8, ' ');
  const uint64_t dataBegin = kPrefixBytes + json.size();
  if (!checkedAdd(position, dataBegin))
    return fail(Code::sizeOverflow, "the size of header and tensors together does not fit 64 bits");
  for (TensorInfo& tensor : header.tensors) {
    tensor.begin += dataBegin;
    tensor.end += dataBegin;
  }
  std::string file;
  for (size_t i = 0; i < kPrefixBytes; ++i)
    file += static_cast<char>((uint64_t{json.size()} >> (8 * i)) & 0xFF);
  return file + json;
}

}  // namespace lego::safetensors
