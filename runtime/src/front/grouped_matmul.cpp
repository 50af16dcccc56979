// Matrix products of groups of rows: tessera/op/grouped_matmul.py.
#include "front/functions.h"

namespace tessera::front {

namespace {

constexpr const char *op = "grouped_matmul";
constexpr int64_t blocks_per_group = 2, large_block = 256, block_multiple = 128;

// Rows of a block.
Dim block_rows(const Dim &rows, const Dim &groups) {
    const Dim size = max(core::ceildiv(rows, groups * Dim(blocks_per_group)), Dim(1));
    if (size.is_constant() && size.constant() >= large_block)
        return core::ceildiv(size, Dim(block_multiple)) * Dim(block_multiple);
    return size;
}

// How many blocks hold the rows, however they are grouped: full ones, and one per group that is not.
Dim block_count(const Dim &rows, const Dim &groups, const Dim &size) {
    if (rows.is_constant() && groups.is_constant() && size.is_constant())
        return max(min(core::ceildiv(rows, size) + groups, rows), Dim(1));
    return groups * Dim(blocks_per_group + 1);
}

// Where rows lie in blocks (blocks, size).
struct Blocks {
    Value row;     // of each place the row; any for a place that is empty
    Value filled;  // whether the place has a row
    Value group;   // of each block (blocks,)
    Value place;   // of each row its place, counted through the blocks
    Value grouped; // whether the row is in a group
};

Value taken(const Value &x, const Value &index) { return build("take", {x, index}, {{"axis", integer(0)}}); }

// A number per group as one per block, (blocks, 1).
Value per_block(const Value &of_group, const Value &group) {
    return to_shape(taken(of_group, group), {group.dim(0), 1});
}

Value size_of(const Dim &size) { return as_tensor(Operand(size), DType::I64); }

// The group of each of n rows or blocks: how many groups end before or with it.
Value group_of(const Dim &n, const Value &after, const Value &last) {
    const Value passed = ge(iota({n, 1}, 0, DType::I64), after);
    return clip(sum(cast_to(passed, DType::I64), std::vector<int64_t>{1}, false), 0, last);
}

Blocks blocks_of(const Dim &rows, const Value &given) {
    const Dim groups = given.dim(0), size = block_rows(rows, groups), count = block_count(rows, groups, size);
    const Value step = size_of(size);
    const Value sizes = check_range(cast_to(given, DType::I64), 0, rows, std::nullopt,
                                    std::string(op) + ": rows of a group");
    const Value ends = check_range(cumsum(sizes, 0), 0, rows, std::nullopt,
                                   std::string(op) + ": rows of this group and those before");
    const Value starts = ends - sizes;
    const Value blocks = floordiv(sizes + (step - 1), step), block_ends = cumsum(blocks, 0);
    // A row of group g is `shift[g]` places behind its number.
    const Value shift = (block_ends - blocks) * step - starts, last = size_of(groups - Dim(1));
    const Value group = group_of(count, block_ends, last), of_row = group_of(rows, ends, last);
    const Value place = iota({count, size}, 0, DType::I64) * step + iota({count, size}, 1, DType::I64);
    const Value row = place - per_block(shift, group);
    const Value number = iota({rows}, 0, DType::I64);
    Blocks found;
    found.row = clip(row, 0, size_of(max(rows - Dim(1), Dim(0))));
    found.filled = lt(row, per_block(ends, group));
    found.group = group;
    found.place = clip(number + taken(shift, of_row), 0, size_of(count * size - Dim(1)));
    found.grouped = lt(number, taken(ends, size_of(groups - Dim(1))));
    return found;
}

// Rows of x (rows, n) as blocks (blocks, size, n), 0 in empty places.
Value in_blocks(const Value &x, const Blocks &blocks) {
    const bool perhaps_empty = x.dim(0).bounds().first < 1; // then a row is added, so that there is one to read
    const Value rows = perhaps_empty ? pad(x, {{0, 1}, {0, 0}}, "constant", 0) : x;
    const Value filled = to_shape(blocks.filled, {blocks.filled.dim(0), blocks.filled.dim(1), 1});
    return where(filled, taken(rows, blocks.row), 0);
}

// Rows of x times the matrices of their groups, which may be transposed.
Value products(const Value &x, const Value &w, const Value &sizes, bool turned) {
    const Blocks blocks = blocks_of(x.dim(0), sizes);
    const Value matrices = taken(w, blocks.group);
    const Value product = build("matmul", {in_blocks(x, blocks), turned ? swap_last(matrices) : matrices});
    const Value y = taken(to_shape(product, {product.dim(0) * product.dim(1), product.dim(2)}), blocks.place);
    return where(to_shape(blocks.grouped, {x.dim(0), 1}), y, 0);
}

void check_shapes(const Value &x, const Value &w, const Value &sizes) {
    require_floats(op, {x, w});
    require_equal_dtypes(op, {x, w});
    const std::string shapes = "x has shape " + shown_shape(x.shape()) + " and w has shape " + shown_shape(w.shape());
    if (x.rank() != 2 || w.rank() != 3)
        fail_op(Code::Shape, op, shapes + "; expected x (rows, in) and w (groups, in, out)");
    if (x.dim(1) != w.dim(1))
        fail_op(Code::Shape, op,
                shapes + ": the last dimension of x (" + x.dim(1).text() + ") must equal the second of w (" +
                    w.dim(1).text() + ")");
    if (w.dim(0) == Dim(0))
        fail_op(Code::Shape, op, "w has shape " + shown_shape(w.shape()) + "; expected at least one group");
    if (sizes.shape() != Shape{w.dim(0)})
        fail_op(Code::Shape, op,
                "group_sizes has shape " + shown_shape(sizes.shape()) + "; expected " + shown_shape({w.dim(0)}) +
                    ", one per group of w");
}

Value body(const Values &of, const Attributes &) {
    check_shapes(of[0], of[1], of[2]);
    return products(of[0], of[1], of[2], false);
}

// Of each group the product of its rows of x, transposed, with those of g; summed over blocks in f32 or f64.
Value weight_gradient(const Value &x, const Value &g, const Value &sizes, const Value &w) {
    const Blocks blocks = blocks_of(x.dim(0), sizes);
    const Value a = widen(in_blocks(x, blocks)), b = widen(in_blocks(g, blocks));
    const Value product = build("matmul", {swap_last(a), b});
    const Value zeros = build("full", {}, {{"shape", dims(w.shape())}, {"value", real(0.0)},
                                           {"dtype", kind(product.dtype())}});
    return cast_to(build("index_add", {zeros, blocks.group, product}, {{"axis", integer(0)}}), w.dtype());
}

Values gradient(const NodePtr &node, const Values &gs) {
    if (!gs[0])
        return {{}, {}, {}};
    const Values of = node->operands();
    return {products(gs[0], of[1], of[2], true), weight_gradient(of[0], gs[0], of[2], of[1]), {}};
}

} // namespace

void define_grouped_matmul(Registry &registry) {
    registry.body(op, body);
    registry.gradient(op, gradient);
}

Value grouped_matmul(const Operand &x, const Operand &w, const Operand &group_sizes) {
    const Values of = promote_floats(op, {x, w});
    return build(op, {of[0], of[1], as_index(op, "group_sizes", group_sizes)});
}

} // namespace tessera::front
