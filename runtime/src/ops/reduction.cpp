// Kernels of the reductions and of the running sum.
#include <algorithm>
#include <limits>
#include <type_traits>

#include "ops/kernel.h"
#include "ops/strided.h"

namespace tessera::portable {

namespace {

constexpr int64_t chunk = 512;
// Long reductions are folded in blocks of this many elements, whose results are merged in order: the same sum for any
// number of threads.
constexpr int64_t block = 1 << 16;

// A fold: how elements computed in T are combined. `position` is the element's place along the reduction.
template <class T> struct Sum {
    // Sums of floats are rounded once, those of integers wrap.
    using State = std::conditional_t<std::is_integral_v<T>, uint64_t, double>;
    static State start() { return 0; }
    static void step(State &state, T x, int64_t) { state += static_cast<State>(x); }
    static void merge(State &state, const State &next) { state += next; }
    static auto result(const State &state) {
        return static_cast<std::conditional_t<std::is_integral_v<T>, int64_t, double>>(state);
    }
};

template <class T> struct Product {
    using State = std::conditional_t<std::is_integral_v<T>, uint64_t, T>;
    static State start() { return 1; }
    static void step(State &state, T x, int64_t) { state *= static_cast<State>(x); }
    static void merge(State &state, const State &next) { state *= next; }
    static T result(const State &state) { return static_cast<T>(state); }
};

template <class T, bool largest> bool beats(T candidate, T best) {
    return (largest ? candidate > best : candidate < best) || (candidate != candidate && best == best);
}

template <class T, bool largest> T weakest() {
    using Limits = std::numeric_limits<T>;
    if constexpr (std::is_integral_v<T>)
        return largest ? Limits::min() : Limits::max();
    else
        return largest ? -Limits::infinity() : Limits::infinity();
}

template <class T, bool largest> struct Extremum {
    using State = T;
    static State start() { return weakest<T, largest>(); }
    static void step(State &state, T x, int64_t) { state = beats<T, largest>(x, state) ? x : state; }
    static void merge(State &state, const State &next) { step(state, next, 0); }
    static T result(const State &state) { return state; }
};
template <class T> using Max = Extremum<T, true>;
template <class T> using Min = Extremum<T, false>;

// The first extremum; a NaN counts as one.
template <class T, bool largest> struct Position {
    struct State {
        T value;
        int64_t position;
    };
    static State start() { return {weakest<T, largest>(), -1}; }
    static void step(State &state, T x, int64_t position) {
        if (state.position < 0 || beats<T, largest>(x, state.value))
            state = {x, position};
    }
    static void merge(State &state, const State &next) {
        if (next.position >= 0)
            step(state, next.value, next.position);
    }
    static int64_t result(const State &state) { return state.position; }
};
template <class T> using ArgMax = Position<T, true>;
template <class T> using ArgMin = Position<T, false>;

// The operand's dimensions sorted into those that stay and those that are combined.
struct Split {
    std::vector<int64_t> kept, kept_strides, combined, combined_strides;
    int64_t outputs = 1, length = 1;

    Split(const KernelCall &call, const std::vector<int64_t> &axes) {
        const std::vector<int64_t> &shape = call.operand(0).shape;
        const std::vector<int64_t> strides = row_major_strides(shape);
        for (size_t i = 0; i < shape.size(); ++i) {
            const bool combine = std::find(axes.begin(), axes.end(), static_cast<int64_t>(i)) != axes.end();
            (combine ? combined : kept).push_back(shape[i]);
            (combine ? combined_strides : kept_strides).push_back(strides[i]);
            (combine ? length : outputs) *= shape[i];
        }
    }

    // Whether neighbouring results come from neighbouring elements, so that many are folded at a time.
    bool columns() const {
        return outputs > 1 && length > 1 && !combined.empty() && kept_strides.back() < combined_strides.back();
    }
};

std::vector<int64_t> joined(std::vector<int64_t> a, const std::vector<int64_t> &b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

template <class State, class Fold>
void store_results(const KernelCall &call, int64_t begin, int64_t count, State *states) {
    decltype(Fold::result(*states)) out[chunk];
    for (int64_t i = 0; i < count; ++i)
        out[i] = Fold::result(states[i]);
    const int64_t item = static_cast<int64_t>(core::item_size(call.result.dtype));
    store(call.result.dtype, out, count, call.result.as<char>() + begin * item);
}

// Results from neighbouring elements: a row of them is folded with each row of elements.
template <class T, class Fold> void reduce_columns(const KernelCall &call, const Split &split) {
    using State = typename Fold::State;
    const StridedReader x(call.operand(0).dtype, call.operand(0).data, joined(split.combined, split.kept),
                          joined(split.combined_strides, split.kept_strides));
    constexpr int64_t width = chunk / 2;
    const int64_t blocks = (split.outputs + width - 1) / width;
    call.parallel(blocks, width * split.length, [&](int64_t first, int64_t last) {
        for (int64_t b = first; b < last; ++b) {
            const int64_t begin = b * width, count = std::min(width, split.outputs - begin);
            State states[width];
            T row[width];
            std::fill_n(states, count, Fold::start());
            for (int64_t position = 0; position < split.length; ++position) {
                x.read(position * split.outputs + begin, count, row);
                for (int64_t i = 0; i < count; ++i)
                    Fold::step(states[i], row[i], position);
            }
            store_results<State, Fold>(call, begin, count, states);
        }
    });
}

template <class T, class Fold>
typename Fold::State fold_range(const StridedReader &x, int64_t offset, int64_t begin, int64_t end) {
    typename Fold::State state = Fold::start();
    T values[chunk];
    for (int64_t at = begin; at < end; at += chunk) {
        const int64_t count = std::min(chunk, end - at);
        x.read(offset + at, count, values);
        for (int64_t i = 0; i < count; ++i)
            Fold::step(state, values[i], at + i);
    }
    return state;
}

template <class T, class Fold> void reduce_rows(const KernelCall &call, const Split &split) {
    using State = typename Fold::State;
    const StridedReader x(call.operand(0).dtype, call.operand(0).data, joined(split.kept, split.combined),
                          joined(split.kept_strides, split.combined_strides));
    const int64_t blocks = std::max<int64_t>(1, (split.length + block - 1) / block);
    std::vector<State> partial(static_cast<size_t>(split.outputs * blocks));
    call.parallel(split.outputs * blocks, std::min(split.length, block), [&](int64_t first, int64_t last) {
        for (int64_t unit = first; unit < last; ++unit) {
            const int64_t begin = unit % blocks * block;
            partial[static_cast<size_t>(unit)] = fold_range<T, Fold>(x, unit / blocks * split.length, begin,
                                                                     std::min(begin + block, split.length));
        }
    });
    for (int64_t begin = 0; begin < split.outputs; begin += chunk) {
        const int64_t count = std::min(chunk, split.outputs - begin);
        State states[chunk];
        for (int64_t i = 0; i < count; ++i) {
            const State *own = &partial[static_cast<size_t>((begin + i) * blocks)];
            states[i] = own[0];
            for (int64_t b = 1; b < blocks; ++b)
                Fold::merge(states[i], own[b]);
        }
        store_results<State, Fold>(call, begin, count, states);
    }
}

template <template <class> class Fold> void reduce(const KernelCall &call, const std::vector<int64_t> &axes) {
    const Split split(call, axes);
    if (split.outputs == 0)
        return;
    with_compute_type(call.operand(0).dtype, [&](auto zero) {
        using T = decltype(zero);
        if (split.columns())
            reduce_columns<T, Fold<T>>(call, split);
        else
            reduce_rows<T, Fold<T>>(call, split);
    });
}

template <template <class> class Fold> void over_axes(const KernelCall &call) {
    reduce<Fold>(call, call.attrs.integers(call.op, "axes"));
}

void require_elements(const KernelCall &call, const std::vector<int64_t> &axes) {
    for (int64_t axis : axes)
        if (call.operand(0).shape[static_cast<size_t>(axis)] == 0)
            call.fail(Code::Shape, "the operand has shape " + core::shape_text(call.operand(0).shape) + ": dimension " +
                                       std::to_string(axis) + " is empty and has no extremum");
}

template <template <class> class Fold> void extremum(const KernelCall &call) {
    require_elements(call, call.attrs.integers(call.op, "axes"));
    over_axes<Fold>(call);
}

template <template <class> class Fold> void position(const KernelCall &call) {
    const std::vector<int64_t> axes = {call.attrs.integer(call.op, "axis")};
    require_elements(call, axes);
    reduce<Fold>(call, axes);
}

void cumsum(const KernelCall &call) {
    if (call.result.size() == 0)
        return;
    const TensorView &x = call.operand(0);
    const size_t axis = call.axis();
    const int64_t length = x.shape[axis], stride = size_product(x.shape, axis + 1, x.shape.size());
    const int64_t lines = size_product(x.shape, 0, axis) * stride;
    const int64_t in_item = static_cast<int64_t>(core::item_size(x.dtype));
    const int64_t out_item = static_cast<int64_t>(core::item_size(call.result.dtype));
    with_compute_type(x.dtype, [&](auto zero) {
        using T = decltype(zero);
        using Fold = Sum<T>;
        call.parallel(lines, length, [&](int64_t first, int64_t last) {
            T in[chunk];
            decltype(Fold::result(Fold::start())) out[chunk];
            for (int64_t line = first; line < last; ++line) {
                const int64_t offset = line / stride * length * stride + line % stride;
                typename Fold::State state = Fold::start();
                for (int64_t at = 0; at < length; at += chunk) {
                    const int64_t count = std::min(chunk, length - at), element = offset + at * stride;
                    load(x.dtype, x.as<char>() + element * in_item, stride, count, in);
                    for (int64_t i = 0; i < count; ++i) {
                        Fold::step(state, in[i], 0);
                        out[i] = Fold::result(state);
                    }
                    store(call.result.dtype, out, count, call.result.as<char>() + element * out_item, stride);
                }
            }
        });
    });
}

} // namespace

const KernelTable &reduction_kernels() {
    static const KernelTable table = {
        {"sum", over_axes<Sum>},    {"prod", over_axes<Product>},  {"max", extremum<Max>},    {"min", extremum<Min>},
        {"argmax", position<ArgMax>}, {"argmin", position<ArgMin>}, {"cumsum", cumsum},
    };
    return table;
}

} // namespace tessera::portable
