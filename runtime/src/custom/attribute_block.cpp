#include "custom/attribute_block.h"

namespace tessera::custom {

AttributeBlock::AttributeBlock(const std::vector<graph::Attribute> &attributes) {
    for (const graph::Attribute &attribute : attributes)
        order_.push_back(add(attribute));
}

const tsr_attribute *AttributeBlock::add(const graph::Attribute &attribute) {
    tsr_attribute out{};
    out.size = sizeof out;
    if (const bool *b = attribute.get_if<bool>()) {
        out.kind = TSR_ATTRIBUTE_BOOL;
        out.integer = *b;
    } else if (const int64_t *i = attribute.get_if<int64_t>()) {
        out.kind = TSR_ATTRIBUTE_INTEGER;
        out.integer = *i;
        out.real = static_cast<double>(*i);
    } else if (const double *d = attribute.get_if<double>()) {
        out.kind = TSR_ATTRIBUTE_REAL;
        out.real = *d;
    } else if (const std::string *s = attribute.get_if<std::string>()) {
        out.kind = TSR_ATTRIBUTE_STRING;
        out.text = texts_.emplace_back(*s).c_str();
    } else if (const core::DType *t = attribute.get_if<core::DType>()) {
        out.kind = TSR_ATTRIBUTE_DTYPE;
        out.integer = static_cast<int64_t>(*t);
    } else if (const core::Dim *dim = attribute.get_if<core::Dim>()) {
        out.kind = TSR_ATTRIBUTE_DIM;
        out.dim = dims_.emplace_back(new tsr_dim(*dim)).get();
    } else if (const graph::Attribute::List *list = attribute.get_if<graph::Attribute::List>()) {
        std::vector<const tsr_attribute *> items;
        for (const graph::Attribute &item : *list)
            items.push_back(add(item));
        out.kind = TSR_ATTRIBUTE_LIST;
        out.count = static_cast<int32_t>(items.size());
        out.items = lists_.emplace_back(std::move(items)).data();
    }
    return &values_.emplace_back(out);
}

} // namespace tessera::custom
