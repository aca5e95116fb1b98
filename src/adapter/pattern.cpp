#include "adapter/pattern.h"

#include <algorithm>
#include <memory>
#include <optional>

#include "base/limits.h"

namespace lego {

/// Parses a key into a tree and writes the tree as states, each construct in front of what follows it.
class PatternCompiler {
 public:
  PatternCompiler(std::string_view text, Pattern& pattern) : text_(text), pattern_(pattern) {}

  Status run() {
    if (text_.size() > limits::kPatternBytes)
      return refuse("is longer than " + std::to_string(limits::kPatternBytes) + " bytes");
    auto tree = parseAlternatives(0);
    if (tree && at_ < text_.size()) problem_ = "has an unmatched ')'";
    if (!problem_.empty()) return refuse(problem_);

    using Kind = Pattern::State::Kind;
    const uint32_t accept = add({Kind::Accept});
    const uint32_t key = emit(*tree, add({Kind::End, accept}));
    // (.*\.)? in front of the key.
    const uint32_t dot = add({Kind::Bytes, key, addClass(single('.'))});
    const uint32_t loop = add({Kind::Split, 0, dot});
    pattern_.states_[loop].next = add({Kind::Bytes, loop, addClass(anyByte())});
    pattern_.start_ = add({Kind::Split, key, loop});
    if (tooManyStates_)
      return refuse("expands to more than " + std::to_string(limits::kPatternStates) + " states");
    return {};
  }

 private:
  struct Node;
  using Tree = std::unique_ptr<Node>;
  using ByteClass = Pattern::ByteClass;

  struct Node {
    enum class Kind { Bytes, Begin, End, Sequence, Alternatives, Repeat } kind;
    ByteClass bytes;
    std::vector<Tree> children;
    uint32_t minimum = 0, maximum = 0;  // Repeat; kUnbounded: no maximum
  };
  static constexpr uint32_t kUnbounded = UINT32_MAX;
  static constexpr size_t kNesting = 64;  // depth of groups; bounds the recursion of parser and emitter
  static constexpr size_t kEmitSteps = 10 * limits::kPatternStates;

  Status refuse(const std::string& why) const {
    return Error{Code::badPattern, "the pattern " + shownName(std::string(text_)) + " " + why, {}, {}, {}};
  }

  // --- bytes ---

  static ByteClass none() { return ByteClass(256, false); }
  static ByteClass single(unsigned char byte) {
    ByteClass bytes = none();
    bytes[byte] = true;
    return bytes;
  }
  static ByteClass anyByte() {
    ByteClass bytes(256, true);
    bytes['\n'] = false;
    return bytes;
  }
  static void addRange(ByteClass& bytes, unsigned char first, unsigned char last) {
    for (unsigned c = first; c <= last; ++c) bytes[c] = true;
  }
  static ByteClass inverted(ByteClass bytes) {
    bytes.flip();
    return bytes;
  }

  /// \d, \w, \s and their complements; bytes above 127 belong to letters, hence to \w.
  static std::optional<ByteClass> named(char letter) {
    ByteClass bytes = none();
    switch (letter) {
      case 'd':
      case 'D': addRange(bytes, '0', '9'); break;
      case 'w':
      case 'W':
        addRange(bytes, '0', '9'), addRange(bytes, 'a', 'z'), addRange(bytes, 'A', 'Z'),
            addRange(bytes, 128, 255);
        bytes['_'] = true;
        break;
      case 's':
      case 'S': addRange(bytes, 9, 13), bytes[' '] = true; break;
      default: return std::nullopt;
    }
    return letter < 'a' ? inverted(bytes) : bytes;
  }

  /// The byte that `\letter` stands for, where it stands for one.
  static std::optional<unsigned char> escapedByte(char letter) {
    switch (letter) {
      case 'n': return '\n';
      case 't': return '\t';
      case 'r': return '\r';
      default: break;
    }
    const bool alphanumeric = (letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'z') ||
                              (letter >= 'A' && letter <= 'Z');
    if (alphanumeric) return std::nullopt;
    return static_cast<unsigned char>(letter);
  }

  // --- parser ---

  bool more() const { return at_ < text_.size(); }
  bool take(char c) {
    if (!more() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  Tree fail(std::string why) {
    if (problem_.empty()) problem_ = std::move(why);
    return nullptr;
  }
  static Tree make(Node::Kind kind) {
    auto node = std::make_unique<Node>();
    node->kind = kind;
    return node;
  }
  static Tree makeBytes(ByteClass bytes) {
    auto node = make(Node::Kind::Bytes);
    node->bytes = std::move(bytes);
    return node;
  }

  Tree parseAlternatives(size_t depth) {
    if (depth > kNesting) return fail("nests groups too deeply");
    auto alternatives = make(Node::Kind::Alternatives);
    do {
      auto sequence = make(Node::Kind::Sequence);
      while (more() && text_[at_] != '|' && text_[at_] != ')') {
        auto item = parseRepeated(depth);
        if (!item) return nullptr;
        sequence->children.push_back(std::move(item));
      }
      alternatives->children.push_back(std::move(sequence));
    } while (take('|'));
    return alternatives;
  }

  Tree parseRepeated(size_t depth) {
    const bool quantifierFirst = more() && (text_[at_] == '*' || text_[at_] == '+' || text_[at_] == '?');
    if (quantifierFirst) return fail("has nothing to repeat");
    auto item = parseItem(depth);
    if (!item) return nullptr;
    uint32_t minimum = 0, maximum = 0;
    if (!parseQuantifier(minimum, maximum)) return item;
    if (item->kind == Node::Kind::Begin || item->kind == Node::Kind::End) return fail("repeats an anchor");
    take('?');  // lazy: the same paths match
    uint32_t ignored = 0;
    if (more() && (text_[at_] == '+' || parseQuantifier(ignored, ignored)))
      return fail("repeats a repetition");
    auto repeat = make(Node::Kind::Repeat);
    repeat->minimum = minimum;
    repeat->maximum = maximum;
    repeat->children.push_back(std::move(item));
    return repeat;
  }

  bool parseQuantifier(uint32_t& minimum, uint32_t& maximum) {
    if (take('*')) return minimum = 0, maximum = kUnbounded, true;
    if (take('+')) return minimum = 1, maximum = kUnbounded, true;
    if (take('?')) return minimum = 0, maximum = 1, true;
    if (!more() || text_[at_] != '{') return false;
    // {m}, {m,}, {,n}, {m,n}; anything else is a literal brace, as in Python.
    size_t i = at_ + 1;
    const auto number = [&]() -> std::optional<uint32_t> {
      const size_t begin = i;
      uint32_t value = 0;
      for (; i < text_.size() && text_[i] >= '0' && text_[i] <= '9'; ++i) {
        value =
            std::min<uint32_t>(value * 10 + static_cast<uint32_t>(text_[i] - '0'), limits::kPatternStates);
      }
      return i == begin ? std::nullopt : std::optional(value);
    };
    const auto low = number();
    const bool comma = i < text_.size() && text_[i] == ',';
    if (comma) ++i;
    const auto high = comma ? number() : low;
    if (i >= text_.size() || text_[i] != '}' || (!low && !high)) return false;
    at_ = i + 1;
    minimum = low.value_or(0);
    maximum = high.value_or(kUnbounded);
    if (maximum < minimum) fail("has a repetition whose bounds are in the wrong order");
    return true;
  }

  Tree parseItem(size_t depth) {
    const char c = text_[at_++];
    switch (c) {
      case '.': return makeBytes(anyByte());
      case '^': return make(Node::Kind::Begin);
      case '$': return make(Node::Kind::End);
      case '[': return parseClass();
      case '(': return parseGroup(depth);
      case '\\': return parseEscape();
      default: return makeBytes(single(static_cast<unsigned char>(c)));
    }
  }

  Tree parseGroup(size_t depth) {
    if (take('?') && !take(':'))
      return fail("uses a group extension other than (?:...), which is not supported");
    auto inside = parseAlternatives(depth + 1);
    if (!inside) return nullptr;
    if (!take(')')) return fail("has an unmatched '('");
    return inside;
  }

  Tree parseEscape() {
    if (!more()) return fail("ends in a backslash");
    const char letter = text_[at_++];
    if (auto bytes = named(letter)) return makeBytes(*bytes);
    if (letter == 'A') return make(Node::Kind::Begin);
    if (letter == 'Z') return make(Node::Kind::End);
    if (auto byte = escapedByte(letter)) return makeBytes(single(*byte));
    return fail(std::string("uses \\") + letter + ", which is not supported");
  }

  Tree parseClass() {
    ByteClass bytes = none();
    const bool inverse = take('^');
    bool first = true;
    for (;; first = false) {
      if (!more()) return fail("has an unmatched '['");
      if (text_[at_] == ']' && !first) break;
      const auto low = classMember(bytes);
      if (!problem_.empty()) return nullptr;
      const bool range = low && at_ + 1 < text_.size() && text_[at_] == '-' && text_[at_ + 1] != ']';
      if (!range) {
        if (low) bytes[*low] = true;
        continue;
      }
      ++at_;
      const auto high = classMember(bytes);
      if (!problem_.empty()) return nullptr;
      if (!high || *high < *low) return fail("has a range in the wrong order");
      addRange(bytes, *low, *high);
    }
    ++at_;
    return makeBytes(inverse ? inverted(bytes) : bytes);
  }

  /// One member of a class: its byte, or nothing where it is a named class, which is added to `bytes`.
  std::optional<unsigned char> classMember(ByteClass& bytes) {
    const char c = text_[at_++];
    if (c != '\\') return static_cast<unsigned char>(c);
    if (!more()) return fail("ends in a backslash"), std::nullopt;
    const char letter = text_[at_++];
    if (const auto set = named(letter)) {
      for (size_t i = 0; i < 256; ++i) bytes[i] = bytes[i] || (*set)[i];
      return std::nullopt;
    }
    const auto byte = escapedByte(letter);
    if (!byte) fail(std::string("uses \\") + letter + " in a class, which is not supported");
    return byte;
  }

  // --- emitter ---

  uint32_t add(Pattern::State state) {
    if (pattern_.states_.size() >= limits::kPatternStates) {
      tooManyStates_ = true;
      return 0;
    }
    pattern_.states_.push_back(state);
    return static_cast<uint32_t>(pattern_.states_.size() - 1);
  }

  uint32_t addClass(ByteClass bytes) {
    pattern_.classes_.push_back(std::move(bytes));
    return static_cast<uint32_t>(pattern_.classes_.size() - 1);
  }

  /// Writes `node` so that what it matches leads to `next`; returns its first state.
  uint32_t emit(const Node& node, uint32_t next) {
    using Kind = Pattern::State::Kind;
    // Steps are counted too: repetitions of nothing cost time without making states.
    if (++steps_ > kEmitSteps) tooManyStates_ = true;
    if (tooManyStates_) return 0;
    switch (node.kind) {
      case Node::Kind::Bytes: return add({Kind::Bytes, next, addClass(node.bytes)});
      case Node::Kind::Begin: return add({Kind::Begin, next});
      case Node::Kind::End: return add({Kind::End, next});
      case Node::Kind::Sequence:
        for (auto child = node.children.rbegin(); child != node.children.rend(); ++child)
          next = emit(**child, next);
        return next;
      case Node::Kind::Alternatives: {
        uint32_t first = emit(*node.children[0], next);
        for (size_t i = 1; i < node.children.size(); ++i)
          first = add({Kind::Split, first, emit(*node.children[i], next)});
        return first;
      }
      case Node::Kind::Repeat: break;
    }
    const Node& child = *node.children[0];
    uint32_t first = next;
    if (node.maximum == kUnbounded) {
      first = add({Kind::Split, 0, next});
      const uint32_t body = emit(child, first);
      if (!tooManyStates_) pattern_.states_[first].next = body;
    } else {
      for (uint32_t i = node.minimum; i < node.maximum && !tooManyStates_; ++i)
        first = add({Kind::Split, emit(child, first), next});
    }
    for (uint32_t i = 0; i < node.minimum && !tooManyStates_; ++i) first = emit(child, first);
    return first;
  }

  std::string_view text_;
  Pattern& pattern_;
  size_t at_ = 0;
  std::string problem_;
  size_t steps_ = 0;
  bool tooManyStates_ = false;
};

Result<Pattern> Pattern::compile(std::string_view key) {
  Pattern pattern;
  if (Status done = PatternCompiler(key, pattern).run(); !done) return done.error();
  return pattern;
}

bool Pattern::matches(std::string_view path) const {
  std::vector<uint32_t> current, following, pending;
  std::vector<size_t> seenAt(states_.size(), SIZE_MAX);  // position at which a state was last added
  const auto add = [&](uint32_t first, size_t position, std::vector<uint32_t>& set) {
    pending.assign(1, first);
    while (!pending.empty()) {
      const uint32_t index = pending.back();
      pending.pop_back();
      if (seenAt[index] == position) continue;
      seenAt[index] = position;
      const State& state = states_[index];
      switch (state.kind) {
        case State::Kind::Split: pending.push_back(state.other), pending.push_back(state.next); break;
        case State::Kind::Begin:
          if (position == 0) pending.push_back(state.next);
          break;
        case State::Kind::End:
          if (position == path.size()) pending.push_back(state.next);
          break;
        default: set.push_back(index); break;
      }
    }
  };
  add(start_, 0, current);
  for (size_t position = 0; position < path.size() && !current.empty(); ++position) {
    following.clear();
    for (const uint32_t index : current) {
      const State& state = states_[index];
      if (state.kind == State::Kind::Bytes &&
          classes_[state.other][static_cast<unsigned char>(path[position])]) {
        add(state.next, position + 1, following);
      }
    }
    current.swap(following);
  }
  return std::ranges::any_of(current,
                             [&](uint32_t index) { return states_[index].kind == State::Kind::Accept; });
}

}  // namespace lego
