/* Libraries that must be refused, one for each value of BROKEN. */
#include <tessera/custom_op_abi.h>

static tsr_status infer(void *context, const tsr_custom_types *call) {
    (void)context;
    (void)call;
    return TSR_OK;
}

static tsr_status cpu(void *context, const tsr_custom_call *call) {
    (void)context;
    (void)call;
    return TSR_OK;
}

enum { NEWER = 1, NO_COLONS, BAD_SCHEMA, NO_SHAPE, NO_KERNEL, SHORT, TWICE, TAKEN, FAILING, EMPTY, NO_ENTRY };

#if BROKEN != 11 /* NO_ENTRY */
tsr_status tessera_custom_library(int32_t runtime, const tsr_custom_library **library);

__attribute__((visibility("default"))) tsr_status tessera_custom_library(int32_t runtime,
                                                                         const tsr_custom_library **library) {
    static tsr_custom_op op;
    static const tsr_custom_op *ops[2] = {&op, &op};
    static tsr_custom_library out;
    (void)runtime;
    op.size = BROKEN == SHORT ? 16 : sizeof op;
    op.name = BROKEN == NO_COLONS ? "name" : BROKEN == TAKEN ? "sample::affine" : "broken::op";
    op.schema = BROKEN == BAD_SCHEMA ? "(x: tensor, axis: int = 1.5) -> (y)" : "(x: tensor) -> (y)";
    op.infer = BROKEN == NO_SHAPE ? 0 : infer;
    op.cpu = BROKEN == NO_KERNEL ? 0 : cpu;
    out.size = sizeof out;
    out.abi_version = BROKEN == NEWER ? TSR_CUSTOM_ABI_VERSION + 1 : TSR_CUSTOM_ABI_VERSION;
    out.op_count = BROKEN == TWICE ? 2 : BROKEN == EMPTY ? 0 : 1;
    out.ops = ops;
    *library = &out;
    return BROKEN == FAILING ? tsr_set_error(TSR_DEVICE_ERROR, "it needs a machine that is not there") : TSR_OK;
}
#endif
