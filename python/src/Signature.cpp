#include "bitloom/python/src/Signature.h"

#include "bitloom/lib/support/Expression.h"
#include "bitloom/lib/support/Suggest.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <functional>

namespace bitloom::python {

using Kind = Parameter::Kind;

bool isOptional(const std::vector<Parameter> &parameters, const Parameter &view) {
  std::function<std::optional<int64_t>(std::string_view)> valueOf =
      [&](std::string_view name) -> std::optional<int64_t> {
    if (name.find('.') != name.npos)
      return 0; // "bias.given"
    for (const Parameter &other : parameters)
      if (other.kind == Kind::Meta && other.name == name)
        return other.expression.empty() ? other.bits : evaluate(other.expression, valueOf);
    return 64;
  };
  return std::ranges::any_of(view.shape, [&](const std::string &extent) { return evaluate(extent, valueOf) == 0; });
}

static std::string literal(const Parameter &parameter) {
  if (parameter.kind == Kind::Meta && !parameter.expression.empty())
    return "None";
  if (!parameter.choices.empty())
    return "'" + parameter.choices[size_t(parameter.bits)] + "'";
  if (parameter.dtype == DType::b1)
    return parameter.bits & 1 ? "True" : "False";
  char text[32];
  std::to_chars_result end;
  if (parameter.dtype == DType::f32) { // shortest text that gives the same f32
    float value;
    std::memcpy(&value, &parameter.bits, sizeof value);
    end = std::to_chars(std::begin(text), std::end(text), value);
  } else if (isFloat(parameter.dtype)) {
    end = std::to_chars(std::begin(text), std::end(text), readAsDouble(parameter.dtype, &parameter.bits));
  } else {
    end = std::to_chars(std::begin(text), std::end(text),
                        parameter.kind == Kind::Meta ? parameter.bits
                                                     : int64_t(readAsDouble(parameter.dtype, &parameter.bits)));
  }
  return {text, end.ptr};
}

// "f32, f16 or bf16": the parameter's element types over the variants.
static std::string dtypesOf(const KernelRow &row, size_t parameter) {
  std::vector<std::string> names;
  for (const Variant &variant : row.variants) {
    std::string name(nameOf(variant.parameters[parameter].dtype));
    if (std::ranges::find(names, name) == names.end())
      names.push_back(name);
  }
  std::string last = names.back();
  names.pop_back();
  return names.empty() ? last : joined(names) + " or " + last;
}

static std::string describe(const KernelRow &row, const Signature::Entry &entry) {
  const Parameter &parameter = row.variants.front().parameters[entry.parameter];
  std::string text = parameter.name + " : ";
  switch (parameter.kind) {
  case Kind::View:
    text += dtypesOf(row, entry.parameter) + " of shape (" + joined(parameter.shape) +
            (parameter.shape.size() == 1 ? ",)" : ")");
    if (parameter.output)
      text += isOptional(row.variants.front().parameters, parameter) ? ", written, optional"
                                                                     : ", written; made when not given";
    else if (!entry.required)
      text += ", optional";
    break;
  case Kind::Scalar:
    text += std::string(nameOf(parameter.dtype)) + ", default " + entry.standard;
    break;
  case Kind::Meta:
    text += (!parameter.choices.empty()     ? joined(parameter.choices)
             : parameter.dtype == DType::b1 ? "bool"
                                            : "int") +
            std::string(", default ") + (parameter.expression.empty() ? entry.standard : parameter.expression) +
            "; each value is compiled anew";
    break;
  }
  return text;
}

Signature::Signature(const KernelRow &row) {
  const std::vector<Parameter> &parameters = row.variants.front().parameters;
  std::vector<Entry> optional, scalars, named;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter &parameter = parameters[i];
    if (parameter.kind == Kind::Scalar) {
      scalars.push_back({i, true, false, literal(parameter)});
    } else if (parameter.kind == Kind::Meta) {
      named.push_back({i, false, false, literal(parameter)});
    } else if (parameter.output) {
      named.push_back({i, false, false, "None"});
      outputs.push_back(i);
    } else if (isOptional(parameters, parameter)) {
      optional.push_back({i, true, false, "None"});
    } else {
      entries.push_back({i, true, true, ""});
    }
  }
  for (const auto *group : {&optional, &scalars, &named})
    entries.insert(entries.end(), group->begin(), group->end());

  text = "(";
  for (size_t e = 0; e < entries.size(); ++e) {
    if (!entries[e].byPosition && (e == 0 || entries[e - 1].byPosition))
      text += e ? ", *" : "*";
    text += (text.size() > 1 ? ", " : "") + parameters[entries[e].parameter].name;
    if (!entries[e].required)
      text += "=" + entries[e].standard;
  }
  text += ")";

  documentation = row.summary + "\n\nParameters\n----------\n";
  for (const Entry &entry : entries)
    documentation += describe(row, entry) + "\n";
  std::vector<std::string> results;
  for (size_t i : outputs)
    results.push_back((isOptional(parameters, parameters[i]) ? "where asked for " : "") + parameters[i].name);
  documentation += "\nReturns " + joined(results) +
                   ". Arrays are anything with DLPack (torch, numpy, ...), all on one device, used without copies.\n"
                   "Raises bitloom.UserError, which names the argument, what was expected and what came.\n";
}

} // namespace bitloom::python
