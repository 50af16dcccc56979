// The C ABI of dimensions.
#include "api/handles.h"

using namespace tessera::core;

namespace {

Dim applied(int32_t function, const Dim &a, const Dim &b) {
    switch (function) {
    case TSR_DIM_ADD: return a + b;
    case TSR_DIM_SUB: return a - b;
    case TSR_DIM_MUL: return a * b;
    case TSR_DIM_FLOORDIV: return floordiv(a, b);
    case TSR_DIM_MOD: return mod(a, b);
    case TSR_DIM_MAX: return max(a, b);
    case TSR_DIM_MIN: return min(a, b);
    }
    fail(Code::Argument, "there is no function %d of dimensions", function);
}

} // namespace

tsr_status tsr_dim_integer(int64_t value, tsr_dim **dim) {
    return guarded([&] {
        require(dim, "dim");
        *dim = new tsr_dim(Dim(value));
    });
}

tsr_status tsr_dim_symbol(const char *name, int64_t min, int64_t max, int64_t multiple_of, tsr_dim **dim) {
    return guarded([&] {
        require(name, "name");
        require(dim, "dim");
        if (!is_symbol_name(name))
            fail(Code::Argument, "'%s' cannot be the name of a dimension: use letters, digits and _", shown(name).c_str());
        if (min < 0 || max < -1 || multiple_of < 1 || (max >= 0 && max < min))
            fail(Code::Argument, "dimension %s: min %lld, max %lld and multiple_of %lld are not a range of sizes", name,
                 static_cast<long long>(min), static_cast<long long>(max), static_cast<long long>(multiple_of));
        auto symbol = std::make_shared<Symbol>();
        symbol->name = name;
        symbol->min = min;
        if (max >= 0)
            symbol->max = max;
        symbol->multiple_of = multiple_of;
        *dim = new tsr_dim(Dim::symbol(std::move(symbol)));
    });
}

tsr_status tsr_dim_apply(int32_t function, const tsr_dim *a, const tsr_dim *b, tsr_dim **result) {
    return guarded([&] {
        require(a, "a");
        require(b, "b");
        require(result, "result");
        *result = new tsr_dim(applied(function, a->dim, b->dim));
    });
}

tsr_status tsr_dim_parse(const char *text, const tsr_dim *const *known, int32_t count, tsr_dim **dim) {
    return guarded([&] {
        require(text, "text");
        require(dim, "dim");
        SymbolTable table;
        for (int32_t i = 0; i < count; ++i) {
            require(known ? known[i] : nullptr, "known");
            for (const SymbolPtr &symbol : known[i]->symbols)
                if (!find_symbol(table, symbol->name))
                    table.push_back(symbol);
        }
        *dim = new tsr_dim(Dim::parse(text, table));
    });
}

int32_t tsr_dim_symbol_at(const tsr_dim *dim, int32_t index, tsr_symbol_info *info) {
    if (!dim || !info || index < 0 || info->size < sizeof(tsr_symbol_info))
        return 0;
    const SymbolTable &symbols = dim->symbols;
    if (static_cast<size_t>(index) >= symbols.size())
        return 0;
    const Symbol &symbol = *symbols[static_cast<size_t>(index)];
    info->name = symbol.name.c_str();
    info->min = symbol.min;
    info->max = symbol.max.value_or(-1);
    info->multiple_of = symbol.multiple_of;
    return 1;
}

const char *tsr_dim_text(const tsr_dim *dim) { return dim ? dim->text.c_str() : ""; }

int32_t tsr_dim_constant(const tsr_dim *dim, int64_t *value) {
    if (!dim || !dim->dim.is_constant())
        return 0;
    if (value)
        *value = dim->dim.constant();
    return 1;
}

int32_t tsr_dim_equal(const tsr_dim *a, const tsr_dim *b) { return a && b && a->dim == b->dim ? 1 : 0; }
int32_t tsr_dim_nonnegative(const tsr_dim *dim) { return dim && dim->dim.is_nonnegative() ? 1 : 0; }

void tsr_dim_retain(tsr_dim *dim) {
    if (dim)
        dim->retain();
}

void tsr_dim_release(tsr_dim *dim) {
    if (dim && dim->release())
        delete dim;
}
