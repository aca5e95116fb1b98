// A program of the build: prints, as JSON, what the core can tell of itself - its error codes, methods,
// formats and kinds of tensors that are no factors - and, in TypeScript, the values that cross to JavaScript.
// The shipped modules have none of it.

#include <cstdio>
#include <string>

#include "adapter/dialect.h"
#include "adapter/extra.h"
#include "format/json.h"
#include "merge/registry.h"
#include "values.h"

using namespace lego;
using namespace lego::bindings;

namespace {

Json codes() {
  Json table = Json::array();
  for (size_t i = 0; i < codeCount(); ++i) {
    const CodeInfo info = codeInfo(static_cast<Code>(i));
    table.push_back({{"name", info.name}, {"sentence", info.sentence}});
  }
  return table;
}

Json formats() {
  Json table = Json::array();
  for (const DialectInfo& info : dialects())
    table.push_back({{"name", info.name},
                     {"sentence", info.sentence},
                     {"tensorFile", info.tensorFile},
                     {"configFile", info.configFile ? info.configFile : ""},
                     {"isRead", info.isRead},
                     {"container", nameOf(info.file)},
                     {"scales", nameOf(info.scales)},
                     {"hasAlphas", info.alphaTensors},
                     {"hasConvolutions", info.hasConvolutions},
                     {"hasEmbeddings", info.hasEmbeddings},
                     {"hasStacks", info.stacks != StackLayout::None}});
  return table;
}

Json extras() {
  Json table = Json::array();
  for (const ExtraInfo& info : extraKinds()) {
    Json policies = Json::array();
    for (const Policy policy : info.policies) policies.push_back(nameOf(policy));
    table.push_back({{"name", info.name}, {"sentence", info.sentence}, {"policies", policies}});
  }
  return table;
}

Json optionOf(const OptionInfo& option) {
  const bool isChoice = option.type == OptionInfo::Type::Choice;
  const char* number = option.type == OptionInfo::Type::Integer ? "integer" : "number";
  return {{"name", option.name},
          {"type", isChoice ? "choice" : number},
          {"choices", isChoice ? splitChoices(option.choices) : std::vector<std::string>()},
          {"minimum", option.minimum},
          {"maximum", option.maximum},
          {"standard", option.standard},
          {"sentence", option.sentence}};
}

Json methodTable() {
  Json table = Json::array();
  for (const MethodInfo& method : methods()) {
    Json aliases = Json::array(), options = Json::array();
    for (const char* alias : method.aliases) aliases.push_back(alias);
    for (const OptionInfo& option : method.options) options.push_back(optionOf(option));
    table.push_back({{"name", method.name},
                     {"aliases", aliases},
                     {"family", nameOf(method.family)},
                     {"sentence", method.sentence},
                     {"source", method.source},
                     {"rank", nameOf(method.rank)},
                     {"choosesRank", method.choosesRank()},
                     {"takesNegativeWeights", method.takesNegativeWeights},
                     {"reshapes", method.reshapes},
                     {"mostAdapters", method.mostAdapters == SIZE_MAX ? 0 : method.mostAdapters},
                     {"options", options}});
  }
  return table;
}

std::string typeOf(const Shape& shape) {
  switch (shape.kind) {
    case Shape::Kind::Text: return "string";
    case Shape::Kind::Number:
    case Shape::Kind::Count: return "number";
    case Shape::Kind::Flag: return "boolean";
    case Shape::Kind::Bytes: return "Uint8Array";
    case Shape::Kind::List: return typeOf(*shape.item) + "[]";
    case Shape::Kind::Object: return shape.name;
  }
  return "";
}

/// Adds the declarations of an object and of those in it.
void declare(const Shape& shape, Json& types) {
  if (shape.item) declare(*shape.item, types);
  if (shape.kind != Shape::Kind::Object || types.contains(shape.name)) return;
  std::string text = "export type " + std::string(shape.name) + " = {\n";
  for (const Field& field : shape.fields) {
    declare(*field.shape, types);
    text += "  " + std::string(field.name) + ": " + typeOf(*field.shape) + "\n";
  }
  types[shape.name] = text + "}\n";
}

/// Of everything that bindings.cpp takes and gives.
Json types() {
  Json types = Json::object();
  for (const Shape* shape :
       {&ShapeOf<FootprintValue>::shape, &ShapeOf<OpenValue>::shape, &ShapeOf<RecipeValue>::shape,
        &ShapeOf<ErrorValue>::shape, &ShapeOf<SizeValue>::shape, &ShapeOf<BytesValue>::shape,
        &ShapeOf<HashesValue>::shape, &ShapeOf<OpenedValue>::shape, &ShapeOf<AdapterValue>::shape,
        &ShapeOf<PlanValue>::shape, &ShapeOf<SurveyValue>::shape, &ShapeOf<ReportValue>::shape})
    declare(*shape, types);
  return types;
}

}  // namespace

int main() {
  const Json tables{{"codes", codes()},
                    {"methods", methodTable()},
                    {"formats", formats()},
                    {"extras", extras()},
                    {"types", types()}};
  std::puts(tables.dump().c_str());
}
