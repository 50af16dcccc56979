// The signature of a custom operator: its text, and the check of a call against it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"

namespace tessera::custom {

enum class Kind : uint8_t { Tensor, Bool, Integer, Real, String, DType, Dim };

// One parameter: a tensor operand or an attribute, or a list of either.
struct Parameter {
    std::string name;
    Kind kind = Kind::Tensor;
    bool list = false;
    bool optional = false;                    // an attribute that may be none
    std::vector<core::DType> dtypes;          // that a tensor may have; empty: any
    std::optional<graph::Attribute> standard; // an attribute's default

    bool is_tensor() const { return kind == Kind::Tensor; }
};

// "(x: tensor(f32|bf16), rest: tensor[], axis: int = -1, scale: float? = none) -> (y, count)"
struct Schema {
    std::vector<Parameter> parameters;
    std::vector<std::string> results;

    // FormatError for a text that is no schema.
    static Schema parse(std::string_view text);
    std::string text() const;

    size_t attribute_count() const;
    // The parameter to which an operand belongs, when there are `count` operands in all.
    const Parameter &operand(size_t index, size_t count) const;
    // Checks number and dtypes of operands. ArgumentError, DTypeError.
    void check_operands(const std::string &op, const std::vector<graph::TensorType> &operands) const;
    // Attributes as the operator gets them: one per attribute of the schema, in its order, defaults filled in.
    // ArgumentError for one that is missing, unknown or of another kind.
    std::vector<graph::Attribute> complete(const std::string &op, const graph::Attributes &given) const;
};

} // namespace tessera::custom
