// Non-max suppression: how many boxes it keeps depends on the data. The result is bounded: `limit` indices, those beyond the
// count padded with -1.
#include <tessera/custom_op.h>

#include <algorithm>
#include <numeric>
#include <stdexcept>

using namespace tessera;
using namespace tessera::custom;

namespace {

// A box: x0, y0, x1, y1. One whose corners are the wrong way round has no area.
float area(const float *box) { return std::max(box[2] - box[0], 0.0f) * std::max(box[3] - box[1], 0.0f); }

// The area that two boxes share, as a part of the area that they cover together.
float overlap(const float *a, const float *b) {
    const float shared[4] = {std::max(a[0], b[0]), std::max(a[1], b[1]), std::min(a[2], b[2]), std::min(a[3], b[3])};
    const float both = area(shared), all = area(a) + area(b) - both;
    return all > 0 ? both / all : 0;
}

TESSERA_OPERATOR(mylib, nms) {
    declare
        .doc("The boxes (N, 4) that stay when, from the highest score (N) down, each one removes those that overlap it by "
             "more than `threshold`. Gives their indices, padded with -1 to `limit`, and how many there are. A box whose "
             "score is below `least` or NaN is left out.")
        .arguments({"boxes", "scores", "limit", {"threshold", 0.5}, {"least", std::nullopt}})
        .results({"indices", "count"})
        .dtypes({DType::F32})
        .shape([](const TensorType &boxes, const TensorType &scores, int64_t limit, double threshold,
                  std::optional<double>) {
            if (boxes.rank() != 2 || boxes.shape[1] != Dim(4))
                throw Error(TSR_SHAPE_ERROR, "boxes is " + boxes.text() + "; expected shape (N, 4)");
            if (scores.rank() != 1 || scores.shape[0] != boxes.shape[0])
                throw Error(TSR_SHAPE_ERROR, "scores is " + scores.text() + "; expected one for each of the boxes, " +
                                                 boxes.text());
            if (limit < 0 || !(threshold >= 0 && threshold <= 1))
                throw Error(TSR_ARGUMENT_ERROR, "limit must not be negative and threshold lie between 0 and 1");
            return std::pair(TensorType{DType::I64, {limit}}, TensorType{DType::I64, {}});
        })
        .scratch([](const TensorType &boxes, const TensorType &, int64_t, double, std::optional<double>) {
            return boxes.shape[0] * Dim(sizeof(int64_t)); // the order of the boxes
        })
        .cpu([](const Context &context, const Input &boxes, const Input &scores, int64_t limit, double threshold,
                std::optional<double> least, const Output &indices, const Output &count) {
            const float *box = boxes.data<float>(), *score = scores.data<float>();
            int64_t *order = context.scratch<int64_t>(), *kept = indices.data<int64_t>(), found = 0;
            int64_t *end = order;
            for (int64_t i = 0; i < scores.size(); ++i)
                if (score[i] == score[i] && (!least || score[i] >= static_cast<float>(*least)))
                    *end++ = i;
            std::sort(order, end, [&](int64_t a, int64_t b) { // of equal scores the first box
                return score[a] != score[b] ? score[a] > score[b] : a < b;
            });
            for (const int64_t *next = order; next != end && found < limit && !context.cancelled(); ++next)
                if (std::none_of(kept, kept + found, [&](int64_t k) {
                        return overlap(box + 4 * k, box + 4 * *next) > static_cast<float>(threshold);
                    }))
                    kept[found++] = *next;
            std::fill(kept + found, kept + limit, -1);
            *count.data<int64_t>() = found;
        })
        .no_gradient("which boxes stay is a decision")
        .sample({random({20, 4}, "f32", 0, 10), random({20}, "f32", 0, 1)}, {{"limit", 8}})
        .sample({random({50, 4}, "f32", 0, 5), random({50}, "f32", 0, 1)},
                {{"limit", 64}, {"threshold", 0.1}, {"least", 0.25}});
}

} // namespace
