/* The C ABI between libtessera.so and a library of operators. C++ programs use tessera/custom_op.h, which fills these
 * structs.
 *
 * Every struct begins with its size as its maker knew it; fields are only ever appended, and what lies beyond the size
 * that was stated counts as zero. The runtime never reads beyond a library's size, a library never beyond the runtime's.
 * So a library goes on working with every later runtime. A function that fails records the text with tsr_set_error and
 * returns its status; no exception leaves it. All functions may be called from several threads at once.
 */
#ifndef TESSERA_CUSTOM_OP_ABI_H
#define TESSERA_CUSTOM_OP_ABI_H

#include "tessera/c_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this file. A runtime loads libraries of its own version and of all before it. */
#define TSR_CUSTOM_ABI_VERSION 1

enum {
    TSR_ATTRIBUTE_NONE = 0,
    TSR_ATTRIBUTE_BOOL = 1,
    TSR_ATTRIBUTE_INTEGER = 2,
    TSR_ATTRIBUTE_REAL = 3,
    TSR_ATTRIBUTE_STRING = 4,
    TSR_ATTRIBUTE_DTYPE = 5,
    TSR_ATTRIBUTE_DIM = 6,
    TSR_ATTRIBUTE_LIST = 7
};

typedef struct tsr_attribute {
    size_t size;
    int32_t kind;
    int32_t count;     /* list: its items */
    int64_t integer;   /* bool, integer, dtype; a dimension that is an integer */
    double real;       /* real */
    const char *text;  /* string */
    const tsr_dim *dim; /* dimension; NULL when a kernel is called, where all sizes are integers */
    const struct tsr_attribute *const *items;
} tsr_attribute;

/* dtype and shape of an operand; sizes may be symbolic. */
typedef struct tsr_custom_type {
    size_t size;
    tsr_dtype dtype;
    int32_t rank;
    const tsr_dim *const *shape;
} tsr_custom_type;

/* A call as the shape function sees it. `attributes` has one entry per attribute of the schema, in its order. */
typedef struct tsr_custom_types {
    size_t size;
    const tsr_custom_type *const *operands;
    const tsr_attribute *const *attributes;
    int32_t operand_count;
    int32_t attribute_count;
    /* Appends the type of the next result. */
    tsr_status (*give_result)(const struct tsr_custom_types *call, tsr_dtype dtype, int32_t rank,
                              const tsr_dim *const *shape);
    /* Says how many bytes of scratch memory the kernel needs; none unless called. */
    tsr_status (*give_scratch)(const struct tsr_custom_types *call, const tsr_dim *bytes);
    void *runtime;
} tsr_custom_types;

/* A row-major tensor in the memory of the kernel's device. */
typedef struct tsr_custom_tensor {
    size_t size;
    void *data;
    const int64_t *shape;
    int32_t rank;
    tsr_dtype dtype;
} tsr_custom_tensor;

/* Processes the units [begin, end); `thread` is below tsr_custom_call.threads. */
typedef tsr_status (*tsr_range_function)(void *context, int64_t begin, int64_t end, int32_t thread);

/* A call as a kernel sees it. Operands may share memory with each other, never with results. */
typedef struct tsr_custom_call {
    size_t size;
    const tsr_custom_tensor *const *operands;
    const tsr_custom_tensor *const *results;
    const tsr_attribute *const *attributes;
    int32_t operand_count;
    int32_t result_count;
    int32_t attribute_count;
    int32_t device_type; /* TSR_CPU, TSR_CUDA, TSR_ROCM */
    int32_t device_index;
    int32_t threads;
    void *stream;  /* GPU: the CUstream or hipStream_t on which the work is to be put, and not waited for */
    void *scratch; /* 64-byte aligned, of the size that the shape function gave, uninitialised */
    uint64_t scratch_bytes;
    /* CPU: calls `function` on disjoint ranges that cover [0, units), none split below `grain`, on the runtime's threads;
     * returns when all are done, with the failure of the lowest range. */
    tsr_status (*parallel_for)(const struct tsr_custom_call *call, int64_t units, int64_t grain,
                               tsr_range_function function, void *context);
    /* Whether the run was cancelled: a long kernel may stop early then. */
    int32_t (*cancelled)(const struct tsr_custom_call *call);
    void *runtime;
} tsr_custom_call;

/* The gradient of a call, as a graph of lazy tensors: built, never computed. */
typedef struct tsr_custom_gradient {
    size_t size;
    tsr_tensor *const *operands;
    tsr_tensor *const *results;
    tsr_tensor *const *cotangents; /* of each result; NULL: zero */
    const tsr_attribute *const *attributes;
    int32_t operand_count;
    int32_t result_count;
    int32_t attribute_count;
    uint32_t reserved;
    tsr_tensor **gradients; /* of each operand: a reference given away, or left NULL where there is none */
} tsr_custom_gradient;

/* One operator. Pointers stay valid as long as the library is loaded; NULL: not given. */
typedef struct tsr_custom_op {
    size_t size;
    const char *name;    /* "library::name" */
    const char *schema;  /* "(gate: tensor(f32|bf16), up: tensor, beta: float = 1.0) -> (y)" */
    const char *doc;
    const char *version; /* part of the hash: changed when the results mean something else; NULL: "1" */
    const char *shard;   /* factor string; NULL: every dimension whole */
    const char *samples; /* JSON list of inputs for op-check */
    const char *gradient_op; /* an operator of (operands..., cotangents...) and the same attributes, with one result
                              * for each floating-point operand; instead of `gradient` */
    const char *no_gradient; /* why there is no gradient */
    void *context;           /* given to each function */
    void (*release)(void *context);
    tsr_status (*infer)(void *context, const tsr_custom_types *call); /* the shape function */
    tsr_status (*cpu)(void *context, const tsr_custom_call *call);
    tsr_status (*cuda)(void *context, const tsr_custom_call *call);
    tsr_status (*hip)(void *context, const tsr_custom_call *call);
    tsr_status (*gradient)(void *context, const tsr_custom_gradient *call);
} tsr_custom_op;

typedef struct tsr_custom_library {
    size_t size;
    int32_t abi_version; /* TSR_CUSTOM_ABI_VERSION of its header */
    int32_t op_count;
    const tsr_custom_op *const *ops;
} tsr_custom_library;

/* What a library exports under the name "tessera_custom_library". */
typedef tsr_status (*tsr_custom_library_entry)(int32_t runtime_abi_version, const tsr_custom_library **library);

#ifdef __cplusplus
}
#endif

#endif
