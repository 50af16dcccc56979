#include "collective/parts.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace tessera::core {

Along::Along(const TensorView &t, int64_t dim) {
    for (int64_t i = 0; i < static_cast<int64_t>(t.shape.size()); ++i)
        (i < dim ? outer : i == dim ? size : inner) *= t.shape[static_cast<size_t>(i)];
    inner *= static_cast<int64_t>(item_size(t.dtype));
}

void copy_along(const char *source, const Along &from, int64_t first, char *target, const Along &to, int64_t at,
                int64_t count, const CopyBytes &copy) {
    for (int64_t o = 0; o < from.outer; ++o)
        if (count * from.inner > 0)
            copy(target + (o * to.size + at) * to.inner, source + (o * from.size + first) * from.inner,
                 static_cast<size_t>(count * from.inner));
}

void copy_along(const char *source, const Along &from, int64_t first, char *target, const Along &to, int64_t at,
                int64_t count) {
    copy_along(source, from, first, target, to, at, count,
               [](void *t, const void *s, size_t bytes) { std::memcpy(t, s, bytes); });
}

void copy_box(const TensorView &part, const TensorView &result, int64_t dim, int64_t split, int64_t first, int64_t at) {
    const int64_t low = std::min(dim, split), high = std::max(dim, split);
    const Along from(part, high), to(result, high);
    const auto size = [&](const TensorView &t, int64_t d) { return t.shape[static_cast<size_t>(d)]; };
    // Rows up to `high` are outer = before × low × between.
    int64_t between = 1, before = 1;
    for (int64_t i = 0; i < high; ++i)
        (i < low ? before : i > low ? between : before) *= i == low ? 1 : part.shape[static_cast<size_t>(i)];
    const int64_t rows = low == split ? size(result, split) : size(part, dim);
    const int64_t count = high == split ? size(result, split) : size(part, dim);
    if (count * from.inner == 0)
        return;
    for (int64_t b = 0; b < before; ++b)
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t k = 0; k < between; ++k) {
                const int64_t source = (b * size(part, low) + r + (low == split ? first : 0)) * between + k;
                const int64_t target = (b * size(result, low) + r + (low == split ? 0 : at)) * between + k;
                std::memcpy(result.as<char>() + (target * to.size + (high == split ? 0 : at)) * to.inner,
                            part.as<char>() + (source * from.size + (high == split ? first : 0)) * from.inner,
                            static_cast<size_t>(count * from.inner));
            }
}

bool same_but(const std::vector<int64_t> &a, const std::vector<int64_t> &b, int64_t first, int64_t second) {
    for (size_t i = 0; i < a.size(); ++i)
        if (static_cast<int64_t>(i) != first && static_cast<int64_t>(i) != second && i < b.size() && a[i] != b[i])
            return false;
    return a.size() == b.size();
}

void misfit(const Collective &collective, const TensorView &t) {
    fail(Code::Shape, "[%s] the parts of the devices do not make %s", collective.name.c_str(),
         type_text(t.dtype, t.shape).c_str());
}

} // namespace tessera::core
