#include "ops/strided.h"

#include <cstring>

namespace tessera::portable {

namespace {

// Leaves out sizes 1 and joins neighbours that are adjacent in every layout. At least one dimension stays.
void join(std::vector<int64_t> &shape, std::vector<std::vector<int64_t> *> layouts) {
    size_t kept = 0;
    for (size_t i = 0; i < shape.size(); ++i) {
        if (shape[i] == 1)
            continue;
        bool joined = kept > 0;
        for (std::vector<int64_t> *strides : layouts)
            joined = joined && (*strides)[kept - 1] == (*strides)[i] * shape[i];
        const size_t at = joined ? kept - 1 : kept++;
        shape[at] = joined ? shape[at] * shape[i] : shape[i];
        for (std::vector<int64_t> *strides : layouts)
            (*strides)[at] = (*strides)[i];
    }
    if (kept == 0) {
        shape.assign(1, 1);
        for (std::vector<int64_t> *strides : layouts)
            strides->assign(1, 0);
        return;
    }
    shape.resize(kept);
    for (std::vector<int64_t> *strides : layouts)
        strides->resize(kept);
}

template <class Item>
void copy_run(const char *source, int64_t source_stride, char *target, int64_t target_stride, int64_t count) {
    const Item *in = reinterpret_cast<const Item *>(source);
    Item *out = reinterpret_cast<Item *>(target);
    if (source_stride == 1 && target_stride == 1) {
        std::memcpy(out, in, static_cast<size_t>(count) * sizeof(Item));
        return;
    }
    for (int64_t i = 0; i < count; ++i)
        out[i * target_stride] = in[i * source_stride];
}

using CopyRun = void (*)(const char *, int64_t, char *, int64_t, int64_t);

CopyRun copy_run_of(size_t item_size) {
    switch (item_size) {
    case 1: return copy_run<uint8_t>;
    case 2: return copy_run<uint16_t>;
    case 4: return copy_run<uint32_t>;
    default: return copy_run<uint64_t>;
    }
}

} // namespace

void KernelCall::fail(Code code, const std::string &message) const {
    std::string text = "[" + std::string(op) + "] " + message;
    if (loc)
        text += "\n  at " + core::shown(loc->text(), 4096);
    throw core::Error(code, std::move(text));
}

int64_t size_product(const std::vector<int64_t> &shape, size_t begin, size_t end) {
    int64_t out = 1;
    for (size_t i = begin; i < end; ++i)
        out *= shape[i];
    return out;
}

std::vector<int64_t> row_major_strides(const std::vector<int64_t> &shape) {
    std::vector<int64_t> out(shape.size(), 1);
    for (size_t i = shape.size(); i-- > 1;)
        out[i - 1] = out[i] * std::max<int64_t>(1, shape[i]);
    return out;
}

std::vector<int64_t> broadcast_strides(const std::vector<int64_t> &shape, const std::vector<int64_t> &target) {
    const std::vector<int64_t> strides = row_major_strides(shape);
    std::vector<int64_t> out(target.size(), 0);
    const size_t lead = target.size() - shape.size();
    for (size_t i = 0; i < shape.size(); ++i)
        out[lead + i] = shape[i] == 1 ? 0 : strides[i];
    return out;
}

StridedReader::StridedReader(DType dtype, const void *data, const std::vector<int64_t> &shape,
                             const std::vector<int64_t> &strides)
    : dtype_(dtype), data_(static_cast<const char *>(data)), shape_(shape), strides_(strides) {
    join(shape_, {&strides_});
}

template <class T> void StridedReader::read(int64_t begin, int64_t count, T *out) const {
    const size_t inner = shape_.size() - 1;
    int64_t index[core::max_rank];
    int64_t offset = 0;
    for (size_t i = shape_.size(); i-- > 0;) {
        index[i] = begin % shape_[i];
        begin /= shape_[i];
        offset += index[i] * strides_[i];
    }
    const int64_t item = static_cast<int64_t>(core::item_size(dtype_));
    while (count > 0) {
        const int64_t run = std::min(count, shape_[inner] - index[inner]);
        load(dtype_, data_ + offset * item, strides_[inner], run, out);
        out += run;
        count -= run;
        offset -= index[inner] * strides_[inner];
        index[inner] = 0;
        for (size_t i = inner; i-- > 0;) { // the next row
            offset += strides_[i];
            if (++index[i] < shape_[i])
                break;
            offset -= index[i] * strides_[i];
            index[i] = 0;
        }
    }
}

template void StridedReader::read(int64_t, int64_t, double *) const;
template void StridedReader::read(int64_t, int64_t, float *) const;
template void StridedReader::read(int64_t, int64_t, int64_t *) const;

void copy_strided(const KernelCall &call, size_t item_size, const std::vector<int64_t> &shape, const void *source,
                  const std::vector<int64_t> &source_strides, void *target,
                  const std::vector<int64_t> &target_strides) {
    for (int64_t size : shape)
        if (size == 0)
            return;
    std::vector<int64_t> sizes = shape, from = source_strides, to = target_strides;
    join(sizes, {&from, &to});
    const size_t inner = sizes.size() - 1;
    const int64_t item = static_cast<int64_t>(item_size);
    const CopyRun copy = copy_run_of(item_size);
    // A single run is cut into pieces, so that it too can be shared out.
    constexpr int64_t piece = 1 << 16;
    const int64_t pieces = (sizes[inner] + piece - 1) / piece;
    const int64_t rows = size_product(sizes, 0, inner);
    call.parallel(rows * pieces, std::min(sizes[inner], piece), [&](int64_t begin, int64_t end) {
        for (int64_t unit = begin; unit < end; ++unit) {
            const int64_t first = unit % pieces * piece;
            const int64_t count = std::min(piece, sizes[inner] - first);
            int64_t read = first * from[inner], write = first * to[inner];
            int64_t row = unit / pieces;
            for (size_t i = inner; i-- > 0;) {
                read += row % sizes[i] * from[i];
                write += row % sizes[i] * to[i];
                row /= sizes[i];
            }
            copy(static_cast<const char *>(source) + read * item, from[inner],
                 static_cast<char *>(target) + write * item, to[inner], count);
        }
    });
}

} // namespace tessera::portable
