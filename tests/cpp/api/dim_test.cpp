// Dimensions through the C++ header.
#include "tessera/dim.h"

#include <cstdint>
#include <limits>
#include <string>

#include "check.h"

using tessera::Dim;

namespace {

void integers() {
    const Dim three = 3, seven = 7;
    CHECK((three + seven).value() == 10);
    CHECK((three - seven).value() == -4);
    CHECK((three * seven).value() == 21);
    CHECK(floordiv(Dim(-7), three).value() == -3);
    CHECK(ceildiv(seven, three).value() == 3);
    CHECK(mod(Dim(-7), three).value() == 2);
    CHECK(max(three, seven) == seven && min(three, seven) == three);
    CHECK(three.is_nonnegative() && !Dim(-1).is_nonnegative());
    CHECK(three != seven && three.text() == "3");
    CHECK_ERROR(Dim(std::numeric_limits<int64_t>::max()) * Dim(2), tessera::Error, TSR_SHAPE_ERROR, "");
    CHECK_ERROR(floordiv(three, Dim(0)), tessera::Error, TSR_SHAPE_ERROR, "");
}

void symbols() {
    const Dim b = Dim::symbol("B", 1, 4096, 8), n = Dim::symbol("N");
    CHECK(!b.is_constant() && b.text() == "B");
    CHECK((b * Dim(2) + Dim(1)).text() == "2*B + 1");
    CHECK(b + n == n + b);
    CHECK(b != n && b != Dim(8));
    CHECK((b - b).is_constant() && (b - b).value() == 0);
    CHECK((b - Dim(1)).is_nonnegative() && !(n - Dim(1)).is_nonnegative());
    CHECK_ERROR(b.value(), tessera::Error, TSR_SHAPE_ERROR, "");
    CHECK(tessera::text({b, 64}) == "[B, 64]");
    for (const char *name : {"", "2B", "max", "a.b"})
        CHECK_ERROR(Dim::symbol(name), tessera::Error, TSR_ARGUMENT_ERROR, "");
    CHECK_ERROR(Dim::symbol("B", 5, 4), tessera::Error, TSR_ARGUMENT_ERROR, "");
    Dim copy = b;
    copy = copy + Dim(1);
    CHECK(copy - Dim(1) == b);
}

} // namespace

int main() {
    integers();
    symbols();
    tsr_dim *out = nullptr;
    CHECK(tsr_dim_apply(99, nullptr, nullptr, &out) == TSR_ARGUMENT_ERROR && !out);
    return finish();
}
