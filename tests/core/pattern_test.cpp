// Regular expressions of rank and alpha patterns. Expected answers are those of Python's
// re.match(rf"^(.*\.)?({key})$", path), except where a construct is refused.

#include <gtest/gtest.h>

#include "adapter/pattern.h"
#include "core/fixtures.h"

namespace lego::testing {
namespace {

bool matches(const std::string& key, const std::string& path) {
  const auto pattern = Pattern::compile(key);
  EXPECT_TRUE(pattern) << key;
  return pattern && pattern->matches(path);
}

TEST(Pattern, PlainKeysMatchWholeComponentsAtTheEnd) {
  EXPECT_TRUE(matches("q_proj", "model.layers.0.self_attn.q_proj"));
  EXPECT_TRUE(matches("q_proj", "q_proj"));
  EXPECT_TRUE(matches("self_attn.q_proj", "model.layers.0.self_attn.q_proj"));
  EXPECT_TRUE(matches("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj"));
  EXPECT_FALSE(matches("q_proj", "model.layers.0.self_attn.my_q_proj"));
  EXPECT_FALSE(matches("q_proj", "model.q_proj.lora"));
  EXPECT_FALSE(matches("q_proj", ""));
  EXPECT_FALSE(matches("layers.1.q", "layers.11.q"));
}

TEST(Pattern, RegularExpressions) {
  EXPECT_TRUE(matches("layers\\.(0|1)\\..*", "model.layers.1.mlp.up"));
  EXPECT_FALSE(matches("layers\\.(0|1)\\..*", "model.layers.2.mlp.up"));
  EXPECT_TRUE(matches("layers\\.\\d+\\.mlp", "a.layers.12.mlp"));
  EXPECT_FALSE(matches("layers\\.\\d+\\.mlp", "a.layers.x.mlp"));
  EXPECT_TRUE(matches("layers\\.[0-3]\\.[^.]+", "layers.3.up"));
  EXPECT_FALSE(matches("layers\\.[0-3]\\.[^.]+", "layers.3.mlp.up"));
  EXPECT_TRUE(matches("[qkv]_proj", "x.k_proj"));
  EXPECT_FALSE(matches("[^qkv]_proj", "x.k_proj"));
  EXPECT_TRUE(matches(".*_proj", "deep.down.o_proj"));
  EXPECT_TRUE(matches("(?:up|down)_proj", "mlp.down_proj"));
  EXPECT_TRUE(matches("a{2,3}", "b.aaa"));
  EXPECT_TRUE(matches("a{2}", "aa"));
  EXPECT_FALSE(matches("a{2}", "aaa"));
  EXPECT_TRUE(matches("a{,2}b", "ab"));
  EXPECT_TRUE(matches("a{2,}", "aaaaa"));
  EXPECT_TRUE(matches("a{x}", "a{x}"));
  EXPECT_TRUE(matches("a+?b*?c??", "aab"));
  EXPECT_TRUE(matches("^layer$", "layer"));
  EXPECT_FALSE(matches("^layer", "x.layer"));
  EXPECT_TRUE(matches("", "model."));
  EXPECT_TRUE(matches("", ""));
  EXPECT_FALSE(matches("", "model"));
  EXPECT_TRUE(matches("a|", "x.a"));
  EXPECT_TRUE(matches("[]a]", "]"));
  EXPECT_TRUE(matches("[a\\-z]", "-"));
  EXPECT_TRUE(matches("[a-]", "-"));
  EXPECT_TRUE(matches("[\\d_]+", "1_2"));
  EXPECT_TRUE(matches("\\w+", "caf\xC3\xA9"));
  EXPECT_FALSE(matches("\\W", "a"));
  EXPECT_FALSE(matches(".", "\n"));
  EXPECT_TRUE(matches("\\.", "."));
}

TEST(Pattern, RefusesWhatItCannotMatchSafely) {
  for (const char* key : {"(",
                          ")",
                          "a)",
                          "[",
                          "[a",
                          "*",
                          "+a",
                          "a**",
                          "a{2}{3}",
                          "a*+",
                          "\\1",
                          "(a)\\1",
                          "(?=a)",
                          "(?!a)",
                          "(?<n>a)",
                          "(?i)a",
                          "\\b",
                          "[z-a]",
                          "a\\",
                          "[\\q]",
                          "a{3,2}",
                          "^*",
                          "(a{5000}){5000}",
                          "(((a{200}){200}){200})"}) {
    expectCode(Pattern::compile(key), Code::badPattern);
  }
  expectCode(Pattern::compile(std::string(5000, 'a')), Code::badPattern);
  expectCode(Pattern::compile(std::string(200, '(') + std::string(200, ')')), Code::badPattern);
  expectCode(Pattern::compile("((){20000}){20000}"), Code::badPattern);
}

// Patterns that take a backtracking matcher for ever; here time is bounded by states times length.
TEST(Pattern, NoCatastrophicBacktracking) {
  const std::string path(4000, 'a');
  EXPECT_FALSE(matches("(a+)+b", path));
  EXPECT_FALSE(matches("(a|a)*b", path));
  EXPECT_FALSE(matches("(a*)*b", path));
  EXPECT_TRUE(matches("(a|aa)+", path));
  EXPECT_FALSE(matches("(.*a){20}b", path));
}

}  // namespace
}  // namespace lego::testing
