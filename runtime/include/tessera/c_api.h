/* The C ABI of libtessera.so: its only exported surface.
 *
 * Conventions. Every function that can fail returns a tsr_status: 0 for success, else the code of the error, whose
 * text tsr_last_error() gives until the next failure in the same thread. Results come through the last pointer
 * arguments, which are untouched on failure. Handles are reference-counted: a function that gives one gives a
 * reference, which the caller returns with the matching release. Structs begin with `size`, set to sizeof by the
 * caller; fields are only ever appended. Strings are UTF-8, owned by the handle they came from. All functions may be
 * called from any thread; a release of NULL does nothing. No C++ exception crosses this boundary.
 */
#ifndef TESSERA_C_API_H
#define TESSERA_C_API_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TSR_API __attribute__((visibility("default")))

/* Increased when a function or field is added; a program built against an older number keeps working. */
#define TSR_ABI_VERSION 2

typedef int32_t tsr_status;
enum {
    TSR_OK = 0,
    TSR_ERROR = 1,
    TSR_SHAPE_ERROR = 2,
    TSR_DTYPE_ERROR = 3,
    TSR_ARGUMENT_ERROR = 4,
    TSR_NAME_MISSING_ERROR = 5,
    TSR_INDEX_RANGE_ERROR = 6,
    TSR_FORMAT_ERROR = 7,
    TSR_VERSION_ERROR = 8,
    TSR_DEVICE_ERROR = 9,
    TSR_UNSUPPORTED_ERROR = 10,
    TSR_GRADIENT_ERROR = 11,
    TSR_GRAPH_ERROR = 12,
    TSR_COMPILE_ERROR = 13,
    TSR_OUT_OF_MEMORY_ERROR = 14,
    TSR_FILE_ACCESS_ERROR = 15,
    TSR_CANCELLED_ERROR = 16,
    TSR_INTERNAL_ERROR = 99
};

typedef int32_t tsr_dtype;
enum {
    TSR_F64 = 0,
    TSR_F32 = 1,
    TSR_BF16 = 2,
    TSR_F16 = 3,
    TSR_F8E4M3 = 4,
    TSR_F8E5M2 = 5,
    TSR_I64 = 6,
    TSR_I32 = 7,
    TSR_I16 = 8,
    TSR_I8 = 9,
    TSR_U8 = 10,
    TSR_BOOL = 11
};

/* Device types are those of DLPack. */
enum { TSR_CPU = 1, TSR_CUDA = 2, TSR_ROCM = 10 };

typedef struct tsr_tensor tsr_tensor;
typedef struct tsr_graph tsr_graph;
typedef struct tsr_runtime tsr_runtime;
typedef struct tsr_run tsr_run;
struct DLManagedTensor;
struct DLManagedTensorVersioned;

/* Called once, when a block of the caller's memory is no longer used. */
typedef void (*tsr_deleter)(void *context);

/* ---- The library ---- */

TSR_API const char *tsr_version(void);
TSR_API int32_t tsr_abi_version(void);
/* The text of this thread's last failure; "" when there was none. */
TSR_API const char *tsr_last_error(void);
/* Records a failure from outside, such as one in a callback, and returns `status`. */
TSR_API tsr_status tsr_set_error(tsr_status status, const char *message);
/* The short name of a dtype ("f32"), or NULL. */
TSR_API const char *tsr_dtype_name(tsr_dtype dtype);
/* Bytes of one element, or 0 for an unknown dtype. */
TSR_API size_t tsr_dtype_size(tsr_dtype dtype);
TSR_API tsr_status tsr_dtype_parse(const char *name, tsr_dtype *dtype);
/* XXH64 of a block of memory, the hash of .tsr sections. */
TSR_API uint64_t tsr_hash64(const void *data, size_t bytes);
/* The code level of the running CPU: "x86-64-v2", "x86-64-v3", "x86-64-v4", or "x86-64". */
TSR_API const char *tsr_cpu_level(void);
/* Devices and optional libraries found, and why not, as JSON. */
TSR_API const char *tsr_doctor(void);

/* ---- Tensors ---- */

enum { TSR_TENSOR_READONLY = 1, TSR_TENSOR_CONTIGUOUS = 2, TSR_TENSOR_LAZY = 4, TSR_TENSOR_SYMBOLIC = 8 };

typedef struct tsr_tensor_info {
    size_t size;
    void *data; /* NULL for a lazy tensor that has not run */
    uint64_t bytes;
    const int64_t *shape;
    const int64_t *strides; /* in elements; NULL on the way in: row-major */
    int32_t rank;
    tsr_dtype dtype;
    int32_t device_type;
    int32_t device_index;
    uint32_t flags;
    uint32_t reserved;
} tsr_tensor_info;

/* New memory, 64-byte aligned, all zero, for info's dtype and shape. */
TSR_API tsr_status tsr_tensor_create(const tsr_tensor_info *info, tsr_tensor **tensor);
/* The same, not initialised. */
TSR_API tsr_status tsr_tensor_create_uninitialized(const tsr_tensor_info *info, tsr_tensor **tensor);
/* The caller's memory, aligned to its element; `deleter` may be NULL. On failure the deleter is not called. */
TSR_API tsr_status tsr_tensor_from_blob(const tsr_tensor_info *info, tsr_deleter deleter, void *context,
                                        tsr_tensor **tensor);
/* Takes over a DLPack tensor (CPU memory) without copying; calls its deleter at the end, on failure too. */
TSR_API tsr_status tsr_tensor_from_dlpack(struct DLManagedTensor *managed, tsr_tensor **tensor);
/* A DLPack tensor that shares the memory; the receiver calls its deleter. */
TSR_API tsr_status tsr_tensor_to_dlpack(tsr_tensor *tensor, struct DLManagedTensor **managed);
/* The same for DLPack 1, which can mark memory read-only. */
TSR_API tsr_status tsr_tensor_from_dlpack_versioned(struct DLManagedTensorVersioned *managed, tsr_tensor **tensor);
TSR_API tsr_status tsr_tensor_to_dlpack_versioned(tsr_tensor *tensor, struct DLManagedTensorVersioned **managed);
/* Shape and strides stay valid as long as the tensor. */
TSR_API tsr_status tsr_tensor_describe(const tsr_tensor *tensor, tsr_tensor_info *info);
/* The tensor itself (one more reference) when it is row-major, else a row-major copy. */
TSR_API tsr_status tsr_tensor_contiguous(tsr_tensor *tensor, tsr_tensor **contiguous);
TSR_API void tsr_tensor_retain(tsr_tensor *tensor);
TSR_API void tsr_tensor_release(tsr_tensor *tensor);

/* ---- Operators: lazy tensors, evaluated by the portable kernels when submitted ---- */

/* Applies the primitive `op` with attributes in the text form of Graph IR ("{axes = [0], keepdims = false}", or "").
 * Checks dtypes and shapes at once; computes nothing. `results` receives `result_count` lazy tensors. */
TSR_API tsr_status tsr_op_apply(const char *op, const char *attributes, tsr_tensor *const *operands,
                                int32_t operand_count, tsr_tensor **results, int32_t result_count);

/* ---- Graphs: loaded artefacts ---- */

enum {
    TSR_LOAD_SKIP_HASHES = 1,
    TSR_LOAD_NO_NATIVE_CODE = 2, /* portable programs alone */
    TSR_LOAD_COPY = 4            /* the file is read, not mapped: changes to it do no harm (since ABI 2) */
};

typedef struct tsr_load_options {
    size_t size;
    const char *target; /* NULL: the best that runs here; "cpu", "cpu.x86-64-v3", "portable" */
    uint32_t flags;
    uint32_t reserved;
} tsr_load_options;

/* Maps a .tsr file. `options` may be NULL. */
TSR_API tsr_status tsr_graph_load_file(const char *path, const tsr_load_options *options, tsr_graph **graph);
/* Loads from memory, which is copied. */
TSR_API tsr_status tsr_graph_load_memory(const void *data, size_t bytes, const tsr_load_options *options,
                                         tsr_graph **graph);
TSR_API void tsr_graph_retain(tsr_graph *graph);
TSR_API void tsr_graph_release(tsr_graph *graph);

TSR_API const char *tsr_graph_target(const tsr_graph *graph); /* "cpu", "portable" */
TSR_API const char *tsr_graph_level(const tsr_graph *graph);  /* "x86-64-v3", or "" */

/* Metadata entries of the file, in file order. */
TSR_API int32_t tsr_graph_metadata_count(const tsr_graph *graph);
TSR_API tsr_status tsr_graph_metadata(const tsr_graph *graph, int32_t index, const char **key, const char **value,
                                      size_t *value_bytes);

enum { TSR_INPUT = 0, TSR_OUTPUT = 1, TSR_STATE = 2, TSR_CONSTANT = 3 };
enum { TSR_VALUE_TRAINABLE = 1, TSR_VALUE_MUTATED = 2 };

typedef struct tsr_value_info {
    size_t size;
    const char *name;
    const char *const *shape; /* each dimension's text: an integer or an expression over symbols */
    int32_t rank;
    tsr_dtype dtype;
    uint32_t flags;
    uint32_t reserved;
} tsr_value_info;

TSR_API int32_t tsr_graph_value_count(const tsr_graph *graph, int32_t kind);
TSR_API tsr_status tsr_graph_value(const tsr_graph *graph, int32_t kind, int32_t index, tsr_value_info *info);
TSR_API tsr_status tsr_graph_find(const tsr_graph *graph, int32_t kind, const char *name, int32_t *index);

typedef struct tsr_symbol_info {
    size_t size;
    const char *name;
    int64_t min;
    int64_t max; /* -1: unbounded */
    int64_t multiple_of;
} tsr_symbol_info;

TSR_API int32_t tsr_graph_symbol_count(const tsr_graph *graph);
TSR_API tsr_status tsr_graph_symbol(const tsr_graph *graph, int32_t index, tsr_symbol_info *info);

typedef struct tsr_requirements {
    size_t size;
    uint64_t arena;   /* bytes of temporary memory of one run */
    uint64_t scratch; /* bytes of kernel scratch of one thread: a workspace has arena + scratch * threads */
    uint64_t inputs;
    uint64_t outputs;
    uint64_t state;
} tsr_requirements;

/* Memory that one run needs, for the sizes of the symbolic dimensions by name. */
TSR_API tsr_status tsr_graph_requirements(const tsr_graph *graph, const char *const *names, const int64_t *sizes,
                                          int32_t count, tsr_requirements *requirements);

/* The graph's own tensor for an input or output of constant shape: zero until written; used when the graph is run
 * without inputs or outputs. */
TSR_API tsr_status tsr_graph_tensor(tsr_graph *graph, int32_t kind, int32_t index, tsr_tensor **tensor);
/* The tensor of a state (shared: what a run updates shows in it). */
TSR_API tsr_status tsr_graph_state(tsr_graph *graph, const char *name, tsr_tensor **tensor);
/* From now on the state lives in this tensor (contiguous, of the state's dtype and shape; writable if mutated). */
TSR_API tsr_status tsr_graph_bind_state(tsr_graph *graph, const char *name, tsr_tensor *tensor);
/* Gives the data of a constant that the artefact left out. */
TSR_API tsr_status tsr_graph_set_constant(tsr_graph *graph, const char *name, tsr_tensor *tensor);
/* All state as a safetensors file, written atomically; waits for a run of the graph that is under way. */
TSR_API tsr_status tsr_graph_save_state(tsr_graph *graph, const char *path);
/* Reads state back; nothing changes unless the whole file fits. */
TSR_API tsr_status tsr_graph_load_state(tsr_graph *graph, const char *path);

/* ---- Runtime ---- */

struct tsr_allocator;
struct tsr_trace;

typedef struct tsr_runtime_options {
    size_t size;
    int32_t threads; /* that take part in a run, the submitting one included; 0: one per available core */
    uint32_t reserved;
    /* Since ABI 2; NULL as a whole or one by one. All memory of runs comes from the allocator. */
    struct tsr_allocator *allocator;
    /* The caller's threads: calls function(argument, begin, end) on disjoint ranges that cover [0, units), none smaller
     * than `grain` except the last, on any threads, at most `threads` at a time; returns when all calls have. */
    void (*parallel_for)(void *context, int64_t units, int64_t grain,
                         void (*function)(void *argument, int64_t begin, int64_t end), void *argument);
    void *parallel_context;
    struct tsr_trace *trace; /* is told of all runs */
    void (*log)(void *context, int32_t level, const char *message);
    void *log_context;
    int32_t log_level; /* the least that is of interest: TSR_LOG_DEBUG, ... */
    uint32_t reserved2;
    tsr_deleter destroy; /* called once with its context when the runtime is gone; not when creation failed */
    void *destroy_context;
} tsr_runtime_options;

/* `options` may be NULL. */
TSR_API tsr_status tsr_runtime_create(const tsr_runtime_options *options, tsr_runtime **runtime);
TSR_API void tsr_runtime_retain(tsr_runtime *runtime);
/* The last release waits for all submitted work, except in a child of fork: the work is the parent's. */
TSR_API void tsr_runtime_release(tsr_runtime *runtime);
TSR_API int32_t tsr_runtime_threads(const tsr_runtime *runtime);

/* Runs on the calling thread, after all work that it has submitted before. Inputs and outputs are in the graph's order; with
 * input_count 0 the graph's own input tensors are used. Each outputs[i] that is NULL receives a new tensor; one that
 * is given is written (contiguous, writable, no overlap with inputs or state). `outputs` may be NULL with
 * output_count 0: results go to the graph's own output tensors. */
TSR_API tsr_status tsr_runtime_run(tsr_runtime *runtime, tsr_graph *graph, tsr_tensor *const *inputs,
                                   int32_t input_count, tsr_tensor **outputs, int32_t output_count);

/* Submits a run; returns at once. Arguments as above (output tensors that are NULL are made by the run); all are kept
 * until it has finished. Checks of names, dtypes and shapes fail here. `run` may be NULL. Runs that one thread submits
 * are done in their order; those of different threads go on side by side, except that a graph whose runs change state
 * does one at a time. For another order see tsr_run_options.stream. */
TSR_API tsr_status tsr_runtime_submit(tsr_runtime *runtime, tsr_graph *graph, tsr_tensor *const *inputs,
                                      int32_t input_count, tsr_tensor *const *outputs, int32_t output_count,
                                      tsr_run **run);
/* Submits the evaluation of lazy tensors. */
TSR_API tsr_status tsr_runtime_submit_tensors(tsr_runtime *runtime, tsr_tensor *const *tensors, int32_t count,
                                              tsr_run **run);
/* Waits for all submitted work; the first failure since the last wait that no tsr_run_wait has returned. */
TSR_API tsr_status tsr_runtime_wait(tsr_runtime *runtime);

typedef struct tsr_run_info {
    size_t size;
    int64_t queued_ns; /* from submission to start */
    int64_t run_ns;    /* from start to end */
    int32_t finished;
    int32_t status;
} tsr_run_info;

/* Waits for this run; its failure, if it failed. */
TSR_API tsr_status tsr_run_wait(tsr_run *run);
TSR_API tsr_status tsr_run_describe(const tsr_run *run, tsr_run_info *info);
/* An output of a finished run. */
TSR_API tsr_status tsr_run_output(tsr_run *run, int32_t index, tsr_tensor **tensor);
TSR_API void tsr_run_retain(tsr_run *run);
TSR_API void tsr_run_release(tsr_run *run);

/* ---- Building graphs: tracing lazy tensors, text of Graph IR ---- */

/* A text that the library made. */
typedef struct tsr_text tsr_text;
TSR_API const char *tsr_text_data(const tsr_text *text); /* ends in a zero byte */
TSR_API size_t tsr_text_size(const tsr_text *text);      /* without it */
TSR_API void tsr_text_release(tsr_text *text);

/* A named input of a traced graph: a lazy tensor of info's dtype and shape that cannot be evaluated by itself. */
TSR_API tsr_status tsr_op_input(const char *name, const tsr_tensor_info *info, tsr_tensor **tensor);
/* The graph that computes the named outputs from the inputs they depend on, executed by the portable kernels. Tensors
 * that exist become its constants, sharing their memory. Its text is the metadata entry "tessera.graph". */
TSR_API tsr_status tsr_graph_trace(const char *graph_name, const char *const *names, tsr_tensor *const *outputs,
                                   int32_t count, tsr_graph **graph);
/* Reads text of Graph IR and gives it in its one canonical form; operators and types are not judged. */
TSR_API tsr_status tsr_graph_text_normalize(const char *text, size_t bytes, tsr_text **normalized);
/* The primitives that tsr_op_apply knows, sorted by name; NULL beyond the last. */
TSR_API const char *tsr_op_name(int32_t index);

/* ---- Dimensions: integers, and integer expressions over symbolic sizes (since ABI 2) ---- */

typedef struct tsr_dim tsr_dim;

enum {
    TSR_DIM_ADD = 0,
    TSR_DIM_SUB = 1,
    TSR_DIM_MUL = 2,
    TSR_DIM_FLOORDIV = 3,
    TSR_DIM_MOD = 4,
    TSR_DIM_MAX = 5,
    TSR_DIM_MIN = 6
};

TSR_API tsr_status tsr_dim_integer(int64_t value, tsr_dim **dim);
/* A size that a run gives: at least `min`, at most `max` (-1: unbounded), a multiple of `multiple_of`. */
TSR_API tsr_status tsr_dim_symbol(const char *name, int64_t min, int64_t max, int64_t multiple_of, tsr_dim **dim);
/* One of TSR_DIM_ADD, ... of two dimensions. */
TSR_API tsr_status tsr_dim_apply(int32_t function, const tsr_dim *a, const tsr_dim *b, tsr_dim **result);
TSR_API const char *tsr_dim_text(const tsr_dim *dim); /* "64", "2*B + 1"; as long as the handle */
/* 1, and the value, for an integer; 0 for an expression. `value` may be NULL. */
TSR_API int32_t tsr_dim_constant(const tsr_dim *dim, int64_t *value);
/* Whether two dimensions are equal for all legal sizes, being the same polynomial. */
TSR_API int32_t tsr_dim_equal(const tsr_dim *a, const tsr_dim *b);
/* Whether a dimension is certainly at least 0 for all legal sizes; 0 when that cannot be proved. */
TSR_API int32_t tsr_dim_nonnegative(const tsr_dim *dim);
/* Reads an expression over the symbols of the `count` known dimensions. */
TSR_API tsr_status tsr_dim_parse(const char *text, const tsr_dim *const *known, int32_t count, tsr_dim **dim);
/* The symbols of a dimension, by their first appearance; 0 beyond the last, else 1. `info` lives as long as the dim. */
TSR_API int32_t tsr_dim_symbol_at(const tsr_dim *dim, int32_t index, tsr_symbol_info *info);
TSR_API void tsr_dim_retain(tsr_dim *dim);
TSR_API void tsr_dim_release(tsr_dim *dim);

/* ---- Files (since ABI 2) ---- */

/* Reads a .tsr file whole and compares every section with its hash, in bounded memory; loads nothing. The error names
 * the first section that differs. */
TSR_API tsr_status tsr_file_verify(const char *path);

/* ---- Devices, memory, streams (since ABI 2) ---- */

typedef struct tsr_allocator tsr_allocator;
typedef struct tsr_stream tsr_stream;
typedef struct tsr_event tsr_event;
typedef struct tsr_workspace tsr_workspace;

/* The number of devices of a kind; TSR_DEVICE_ERROR, which says why, when there is no support for that kind. */
TSR_API tsr_status tsr_device_count(int32_t device_type, int32_t *count);
TSR_API tsr_status tsr_device_name(int32_t device_type, int32_t device_index, tsr_text **name);

/* The caller's memory functions; they must not throw, and are called from any thread. `stream` is the driver's handle,
 * NULL on the CPU: memory may be used by work put on the stream afterwards, and is released after the work put there
 * before. */
typedef struct tsr_allocator_options {
    size_t size;
    void *context;
    /* NULL when there is no memory. */
    void *(*allocate)(void *context, int32_t device_type, int32_t device_index, size_t bytes, size_t alignment,
                      void *stream);
    void (*release)(void *context, int32_t device_type, int32_t device_index, void *pointer, size_t bytes, void *stream);
    tsr_deleter destroy; /* may be NULL: called with the context when the allocator and all its memory are gone */
} tsr_allocator_options;

typedef struct tsr_allocator_statistics {
    size_t size;
    uint64_t bytes_in_use; /* as asked for, without what alignment adds */
    uint64_t peak_bytes;
    uint64_t allocations; /* calls */
    uint64_t releases;
} tsr_allocator_statistics;

/* `options` may be NULL: the devices' own memory, counted. */
TSR_API tsr_status tsr_allocator_create(const tsr_allocator_options *options, tsr_allocator **allocator);
TSR_API tsr_status tsr_allocator_describe(const tsr_allocator *allocator, tsr_allocator_statistics *statistics);
/* The peak becomes what is in use now. */
TSR_API tsr_status tsr_allocator_reset_peak(tsr_allocator *allocator);
TSR_API void tsr_allocator_retain(tsr_allocator *allocator);
TSR_API void tsr_allocator_release(tsr_allocator *allocator);

/* A tensor, all zero, in memory from `allocator`, in the order of `stream` (NULL: usable at once). */
TSR_API tsr_status tsr_tensor_create_from(const tsr_tensor_info *info, tsr_allocator *allocator, tsr_stream *stream,
                                          tsr_tensor **tensor);
/* Copies all elements, in the order of `stream`; NULL: done when this returns. Both tensors are kept until then. Equal
 * dtypes and shapes; strided tensors within the memory of the CPU only. */
TSR_API tsr_status tsr_tensor_copy(tsr_tensor *source, tsr_tensor *target, tsr_stream *stream);

/* A new stream. On the CPU it is a queue served by a thread of its own and by threads that wait for it. */
TSR_API tsr_status tsr_stream_create(int32_t device_type, int32_t device_index, tsr_stream **stream);
/* A CUstream or hipStream_t of the caller's, which stays alive longer than this and is never destroyed. */
TSR_API tsr_status tsr_stream_wrap(int32_t device_type, int32_t device_index, void *native, tsr_stream **stream);
TSR_API void *tsr_stream_native(const tsr_stream *stream); /* NULL on the CPU */
TSR_API tsr_status tsr_stream_device(const tsr_stream *stream, int32_t *device_type, int32_t *device_index);
/* Waits for all work put there so far. Errors of runs are given by tsr_run_wait and tsr_runtime_wait. */
TSR_API tsr_status tsr_stream_wait(tsr_stream *stream);
/* *idle: whether all work put there so far is done. */
TSR_API tsr_status tsr_stream_query(tsr_stream *stream, int32_t *idle);
/* Calls `function`, which must not throw, in the order of the stream on a thread of the host. */
TSR_API tsr_status tsr_stream_call(tsr_stream *stream, void (*function)(void *context), void *context);
/* Work put on the stream from now on begins after the event. */
TSR_API tsr_status tsr_stream_wait_event(tsr_stream *stream, tsr_event *event);
TSR_API void tsr_stream_retain(tsr_stream *stream);
/* The last release waits for the work, unless the stream wraps the caller's. */
TSR_API void tsr_stream_release(tsr_stream *stream);

/* A point in a stream's work; one that was never recorded counts as reached. */
TSR_API tsr_status tsr_event_create(int32_t device_type, int32_t device_index, tsr_event **event);
TSR_API tsr_status tsr_event_record(tsr_event *event, tsr_stream *stream);
TSR_API tsr_status tsr_event_wait(tsr_event *event);
TSR_API tsr_status tsr_event_query(tsr_event *event, int32_t *reached);
/* Between two events that have been reached. */
TSR_API tsr_status tsr_event_elapsed(tsr_event *start, tsr_event *end, int64_t *nanoseconds);
TSR_API void tsr_event_retain(tsr_event *event);
TSR_API void tsr_event_release(tsr_event *event);

/* Memory for the arena and the scratch of runs, of any graphs, one run at a time: a run that finds it in use fails with
 * TSR_ARGUMENT_ERROR, one that needs more with TSR_OUT_OF_MEMORY_ERROR. `allocator` may be NULL. */
TSR_API tsr_status tsr_workspace_create(tsr_allocator *allocator, size_t bytes, tsr_workspace **workspace);
/* The caller's memory, aligned to 64 bytes; `deleter` may be NULL. On failure the deleter is not called. */
TSR_API tsr_status tsr_workspace_wrap(void *data, size_t bytes, tsr_deleter deleter, void *context,
                                      tsr_workspace **workspace);
TSR_API size_t tsr_workspace_bytes(const tsr_workspace *workspace);
TSR_API void tsr_workspace_retain(tsr_workspace *workspace);
TSR_API void tsr_workspace_release(tsr_workspace *workspace);

/* ---- Weights that several graphs share (since ABI 2) ---- */

typedef struct tsr_weights tsr_weights;

TSR_API tsr_status tsr_weights_create(const char *const *names, tsr_tensor *const *tensors, int32_t count,
                                      tsr_weights **weights);
/* The tensors of a safetensors file, mapped; the state of a .tsr file. flags: TSR_LOAD_SKIP_HASHES. */
TSR_API tsr_status tsr_weights_load_file(const char *path, uint32_t flags, tsr_weights **weights);
/* From now on the graph's states of these names are this set's, now and after each swap. Their dtypes and shapes must
 * fit, and runs of the graph must not change them. */
TSR_API tsr_status tsr_weights_bind(tsr_weights *weights, tsr_graph *graph);
/* Replaces all tensors by others of the same names, dtypes and shapes, while runs go on: each run has all the old or all
 * the new ones, and a run that begins after this has returned the new ones. Nothing changes on failure. */
TSR_API tsr_status tsr_weights_swap(tsr_weights *weights, const char *const *names, tsr_tensor *const *tensors,
                                    int32_t count);
TSR_API tsr_status tsr_weights_swap_file(tsr_weights *weights, const char *path, uint32_t flags);
TSR_API void tsr_weights_retain(tsr_weights *weights);
TSR_API void tsr_weights_release(tsr_weights *weights);

/* ---- Cancellation, tracing, runs with options (since ABI 2) ---- */

typedef struct tsr_cancel tsr_cancel;
typedef struct tsr_trace tsr_trace;

/* A token that stops the runs that were given it: those that have not begun, and those under way between two
 * instructions, with TSR_CANCELLED_ERROR. A run that has begun to write state goes on to its end, so that a cancelled
 * run has changed no state. */
TSR_API tsr_status tsr_cancel_create(tsr_cancel **cancel);
TSR_API tsr_status tsr_cancel_request(tsr_cancel *cancel);
TSR_API void tsr_cancel_retain(tsr_cancel *cancel);
TSR_API void tsr_cancel_release(tsr_cancel *cancel);

/* What was done: a run, a kernel, an operator, a check, a copy. Strings are valid during the call. */
typedef struct tsr_trace_event {
    size_t size;
    const char *category; /* "run", "kernel", "operator", "check", "copy", ... */
    const char *name;     /* the kernel's or operator's */
    const char *location; /* the user's "file.py:12", or "" */
    int64_t begin_ns;     /* of the steady clock */
    int64_t end_ns;
    uint64_t thread; /* the system's number */
    int32_t device_type;
    int32_t device_index;
} tsr_trace_event;

typedef struct tsr_trace_options {
    size_t size;
    /* Called for each event on the thread that did the work; must not throw. NULL: events are kept, for _text and _save. */
    void (*function)(void *context, const tsr_trace_event *event);
    void *context;
    tsr_deleter destroy; /* may be NULL: called with the context when the trace is gone; not when creation failed */
} tsr_trace_options;

/* `options` may be NULL. */
TSR_API tsr_status tsr_trace_create(const tsr_trace_options *options, tsr_trace **trace);
TSR_API int64_t tsr_trace_count(const tsr_trace *trace); /* of events kept */
TSR_API tsr_status tsr_trace_clear(tsr_trace *trace);
/* The events kept, in the JSON form that chrome://tracing and ui.perfetto.dev read. */
TSR_API tsr_status tsr_trace_text(const tsr_trace *trace, tsr_text **json);
TSR_API tsr_status tsr_trace_save(const tsr_trace *trace, const char *path);
TSR_API void tsr_trace_retain(tsr_trace *trace);
TSR_API void tsr_trace_release(tsr_trace *trace);

enum { TSR_LOG_DEBUG = 0, TSR_LOG_INFO = 1, TSR_LOG_WARNING = 2, TSR_LOG_ERROR = 3 };

/* How a run is done; fields that are NULL leave it to the runtime. */
typedef struct tsr_run_options {
    size_t size;
    /* The run is done in the order of this stream: of the CPU, or, for a graph compiled for a GPU, of that GPU, where
     * its work is put and not waited for. NULL: after the runs that this thread has submitted. */
    tsr_stream *stream;
    tsr_workspace *workspace;
    tsr_cancel *cancel;
    tsr_trace *trace;
    uint32_t flags; /* TSR_RUN_OUTPUTS_ON_DEVICE */
    uint32_t reserved;
} tsr_run_options;
/* Outputs that a run on a GPU makes lie there also when all inputs are in host memory; without it they then lie there too,
 * and tsr_runtime_run waits for them. */
enum { TSR_RUN_OUTPUTS_ON_DEVICE = 1 };

/* tsr_runtime_run and tsr_runtime_submit with options, which may be NULL. */
TSR_API tsr_status tsr_runtime_run_with(tsr_runtime *runtime, tsr_graph *graph, const tsr_run_options *options,
                                        tsr_tensor *const *inputs, int32_t input_count, tsr_tensor **outputs,
                                        int32_t output_count);
TSR_API tsr_status tsr_runtime_submit_with(tsr_runtime *runtime, tsr_graph *graph, const tsr_run_options *options,
                                           tsr_tensor *const *inputs, int32_t input_count, tsr_tensor *const *outputs,
                                           int32_t output_count, tsr_run **run);

/* ---- Meshes: one program per device, and the exchanges between them (since ABI 2) ---- */

typedef struct tsr_group tsr_group;
typedef struct tsr_communicator tsr_communicator;

/* Devices that are threads of this process, on a mesh of `count` axes, the first one varying slowest over the devices.
 * A device that waits longer than `timeout_ms` for the others fails, and with it all of them. */
TSR_API tsr_status tsr_group_create_local(const char *const *axes, const int64_t *sizes, int32_t count,
                                          int64_t timeout_ms, tsr_group **group);
/* The end of device `rank`: for one program, used by one thread at a time. */
TSR_API tsr_status tsr_group_communicator(tsr_group *group, int64_t rank, tsr_communicator **communicator);
/* All devices that wait in a collective fail with this message, and all that come to one, until tsr_group_reset. */
TSR_API tsr_status tsr_group_fail(tsr_group *group, const char *message);
/* Ready again; to be called when no device is in a run. */
TSR_API tsr_status tsr_group_reset(tsr_group *group);
TSR_API void tsr_group_retain(tsr_group *group);
TSR_API void tsr_group_release(tsr_group *group);
/* Bytes received from other devices and collectives done since the last reset; both pointers may be NULL. */
TSR_API tsr_status tsr_communicator_traffic(const tsr_communicator *communicator, uint64_t *bytes, uint64_t *calls);
TSR_API tsr_status tsr_communicator_reset_traffic(tsr_communicator *communicator);
TSR_API void tsr_communicator_retain(tsr_communicator *communicator);
TSR_API void tsr_communicator_release(tsr_communicator *communicator);
/* Takes part in one collective, which all members of its group must do: `op` is all_reduce, all_gather, reduce_scatter,
 * all_to_all or collective_permute, `attributes` its attributes as Graph IR writes them. Both tensors are contiguous and
 * on the CPU; the result is overwritten. */
TSR_API tsr_status tsr_communicator_run(tsr_communicator *communicator, const char *op, const char *attributes,
                                        tsr_tensor *operand, tsr_tensor *result);
/* An end for a GPU (TSR_CUDA, TSR_ROCM), whose host meets the other hosts by `host`: collectives on the devices go through NCCL
 * or RCCL. `nccl`: an ncclComm_t of the caller's over all devices of the mesh, in order, which stays the caller's; NULL:
 * communicators are made when they are first needed. `timeout_ms`: how long a run may take before a device is taken for dead. */
TSR_API tsr_status tsr_communicator_create_gpu(tsr_communicator *host, int32_t device_type, int32_t device_index, void *nccl,
                                               int64_t timeout_ms, tsr_communicator **communicator);
/* The device's place in the mesh, row-major, and the mesh's number of devices. */
TSR_API tsr_status tsr_communicator_place(const tsr_communicator *communicator, int64_t *rank, int64_t *devices);
/* Makes a graph with collectives the program of the communicator's device: runs use it from now on. */
TSR_API tsr_status tsr_graph_set_communicator(tsr_graph *graph, tsr_communicator *communicator);
/* From now on a symbolic dimension has this size; inputs need not say it. */
TSR_API tsr_status tsr_graph_set_size(tsr_graph *graph, const char *symbol, int64_t size);

/* The processes of a job, one device each. */
typedef struct tsr_world tsr_world;

/* All processes of an MPI communicator: `communicator` is an MPI_Comm of the standard ABI (MPI 5), copied; NULL stands for
 * MPI_COMM_WORLD. MPI is initialised if it is not. `library`: the file of the MPI library; NULL: the one that the process
 * has loaded, or the dynamic loader finds. A process that waits longer than `timeout_ms` fails, and with it all of them. */
TSR_API tsr_status tsr_world_create_mpi(const char *library, void *communicator, int64_t timeout_ms, tsr_world **world);
/* Processes that find each other over TCP: rank 0 is at `host` and listens at `port` while the job starts. */
TSR_API tsr_status tsr_world_create_tcp(int64_t rank, int64_t size, const char *host, int64_t port, int64_t timeout_ms,
                                        tsr_world **world);
TSR_API tsr_status tsr_world_place(const tsr_world *world, int64_t *rank, int64_t *size);
/* This process's end of a mesh. `ranks`: the process of each device, in row-major order; NULL: 0, 1, ... */
TSR_API tsr_status tsr_world_communicator(tsr_world *world, const char *const *axes, const int64_t *sizes, int32_t count,
                                          const int64_t *ranks, tsr_communicator **communicator);
/* Every process of `ranks` (NULL: all; they all call this) gets the bytes of each: joined in the order of `ranks`, and how
 * many each gave (`sizes`: one per process). */
TSR_API tsr_status tsr_world_all_gather(tsr_world *world, const int64_t *ranks, int32_t count, const void *data,
                                        size_t bytes, uint64_t *sizes, tsr_text **joined);
/* All processes that wait for this one fail with this message, and all that come to wait. */
TSR_API tsr_status tsr_world_fail(tsr_world *world, const char *message);
/* The end of this process's part: waits for the others' (after a failure only briefly). Also called when the last handle is
 * released. */
TSR_API tsr_status tsr_world_close(tsr_world *world);
TSR_API void tsr_world_retain(tsr_world *world);
TSR_API void tsr_world_release(tsr_world *world);

/* The program of this process's device, from a .tsr file of a graph that was compiled for a mesh. Of its whole weights only
 * the device's shards are read. `ranks`: the process of each device of the mesh, row-major; NULL: 0, 1, ... A file for GPUs runs
 * on the one that the options' target names ("ptx:1"), the first by default, and exchanges go through NCCL. */
TSR_API tsr_status tsr_graph_load_sharded(const char *path, const tsr_load_options *options, tsr_world *world,
                                          const int64_t *ranks, int32_t rank_count, tsr_graph **graph);
/* The communicator of a graph that has one. */
TSR_API tsr_status tsr_graph_communicator(const tsr_graph *graph, tsr_communicator **communicator);
/* The part of an input, output or state that a device of the mesh holds: the size of the whole, and where the part begins
 * and ends, per dimension (arrays of the tensor's rank). `symbols` and `sizes`: those of `symbol_count` symbolic dimensions. */
TSR_API tsr_status tsr_graph_shard(const tsr_graph *graph, int32_t kind, const char *name, int64_t rank,
                                   const char *const *symbols, const int64_t *sizes, int32_t symbol_count,
                                   int64_t *whole, int64_t *start, int64_t *stop);

/* ---- The front end: functions of `tessera.op`, parameters, gradients, graphs with updates (since ABI 2) ---- */

enum {
    TSR_OPERAND_NONE = 0, /* left out */
    TSR_OPERAND_TENSOR = 1,
    TSR_OPERAND_BOOL = 2, /* numbers take the dtype of the tensor they meet, unless their kind is higher */
    TSR_OPERAND_INTEGER = 3,
    TSR_OPERAND_REAL = 4,
    TSR_OPERAND_DIM = 5
};

/* A tensor, number or size; frozen, as it stands in arrays. */
typedef struct tsr_operand {
    tsr_tensor *tensor;
    tsr_dim *dim;
    double real;
    int64_t integer; /* also of a bool */
    int32_t kind;
    int32_t reserved;
} tsr_operand;

typedef struct tsr_call {
    size_t size;
    const char *function;  /* "softmax" */
    const char *arguments; /* all that are no operands, by name, in text of Graph IR: "{axis = -1}" */
    const tsr_operand *operands;
    tsr_dim *const *dims; /* dimensions whose symbols the arguments use */
    const char *file;     /* of the caller, kept as where the operators come from; NULL: none */
    int32_t line;
    int32_t operand_count;
    int32_t dim_count;
    int32_t reserved;
} tsr_call;

/* Calls a function of `tessera.op` with its rules of promotion and defaults already filled in; computes nothing.
 * `results` has room for `capacity` lazy tensors, of which `count` are written. */
TSR_API tsr_status tsr_op_call(const tsr_call *call, tsr_tensor **results, int32_t capacity, int32_t *count);
/* The functions that tsr_op_call knows, sorted by name; NULL beyond the last. */
TSR_API const char *tsr_op_function_name(int32_t index);
/* A named input with symbolic sizes. `file` may be NULL. */
TSR_API tsr_status tsr_op_symbolic_input(const char *name, tsr_dim *const *shape, int32_t rank, tsr_dtype dtype,
                                         const char *file, int32_t line, tsr_tensor **tensor);
/* Named state of graphs, whose memory is that of `value` (row-major, writable). */
TSR_API tsr_status tsr_op_parameter(const char *name, tsr_tensor *value, int32_t trainable, const char *file,
                                    int32_t line, tsr_tensor **parameter);
/* The size of a dimension, symbolic ones too (they read as -1 in tsr_tensor_info); a negative axis counts from the end. */
TSR_API tsr_status tsr_tensor_dim(const tsr_tensor *tensor, int32_t axis, tsr_dim **dim);
/* Gradients of outputs with respect to inputs, parameters or values in between. `seeds`: the gradient of each output
 * (NULL: zero); NULL as a whole: every output is a scalar, and the gradient of their sum is meant. */
TSR_API tsr_status tsr_op_gradient(tsr_tensor *const *outputs, tsr_tensor *const *seeds, int32_t output_count,
                                   tsr_tensor *const *wrt, int32_t wrt_count, tsr_tensor **gradients);

typedef struct tsr_graph_trace_options {
    size_t size;
    const char *name; /* of the graph */
    const char *const *output_names;
    tsr_tensor *const *outputs;
    tsr_tensor *const *parameters; /* that are updated: tensors of tsr_op_parameter */
    tsr_tensor *const *updates;    /* what replaces the state of each when the graph has run */
    int32_t output_count;
    int32_t update_count;
} tsr_graph_trace_options;

/* tsr_graph_trace for a graph that updates parameters. */
TSR_API tsr_status tsr_graph_trace_with(const tsr_graph_trace_options *options, tsr_graph **graph);
/* The graph with its present weights as a .tsr file, written atomically. */
TSR_API tsr_status tsr_graph_save(tsr_graph *graph, const char *path);
/* Text of Graph IR with every composite operator replaced by what it is made of; `merge`: equal nodes become one. */
TSR_API tsr_status tsr_graph_text_decompose(const char *text, size_t bytes, int32_t merge, tsr_text **decomposed);
/* Text of Graph IR with one output more, "grad.<name>", for each input or parameter named: the gradient of the sum of all
 * floating-point outputs. An output that is no scalar is weighted by a new input "seed.<output>". */
TSR_API tsr_status tsr_graph_text_gradient(const char *text, size_t bytes, const char *const *wrt, int32_t count,
                                           tsr_text **gradient);

/* ---- Tensors on GPUs (since ABI 2) ---- */

/* Runs on a GPU are put on a stream and not waited for. What they write carries the work that writes it: copies, runs and
 * the functions below come after that work, and give its failure. */

/* Uses this file as the driver library of a kind of device (TSR_CUDA, TSR_ROCM) in place of the system's; before that
 * kind is used for the first time. For tests and unusual installations. */
TSR_API tsr_status tsr_device_library(int32_t device_type, const char *file);
/* A file to look for a vendor library in ("cublaslt", "cudnn", "nccl", "rccl"), before those named earlier and before the
 * places where the system looks; "" forgets all that were named. TSR_ARGUMENT_ERROR when the library is loaded already. */
TSR_API tsr_status tsr_vendor_library(const char *library, const char *file);
/* The version of a vendor library as it numbers itself (cuBLASLt 130100: 13.1; cuDNN 91900: 9.19); 0 where it cannot be loaded. */
TSR_API tsr_status tsr_vendor_library_version(const char *library, int64_t *version);
/* The architecture of a GPU: "sm_90", "gfx942". */
TSR_API tsr_status tsr_device_architecture(int32_t device_type, int32_t device_index, tsr_text **name);
/* The device that a graph's runs take place on. */
TSR_API tsr_status tsr_graph_device(const tsr_graph *graph, int32_t *device_type, int32_t *device_index);
/* The tensor itself when it is row-major and lies on that device, else a row-major copy there; waited for. */
TSR_API tsr_status tsr_tensor_to(tsr_tensor *tensor, int32_t device_type, int32_t device_index, tsr_tensor **there);
/* Waits for the work that writes the tensor; its failure. */
TSR_API tsr_status tsr_tensor_wait(tsr_tensor *tensor);
/* Work put from now on on a stream of the tensor's device (a CUstream or hipStream_t) comes after the work that writes
 * the tensor. Nothing to do for tensors of the CPU. */
TSR_API tsr_status tsr_tensor_order_after(tsr_tensor *tensor, void *native_stream);
/* The tensor is written by work that is on that stream now: runs that read it come after that. */
TSR_API tsr_status tsr_tensor_written_on(tsr_tensor *tensor, void *native_stream);
/* A stream of Tessera's own on a device, on which other libraries can be told to make tensors ready. */
TSR_API tsr_status tsr_device_stream(int32_t device_type, int32_t device_index, void **native_stream);

/* ---- Custom operators (since ABI 2); what a library of them exports is in tessera/custom_op_abi.h ---- */

/* Loads a shared library of operators and registers all of them, or none. `names` (may be NULL) receives the names, one
 * a line. A library that is loaded already is no error. Operators stay for the life of the process. */
TSR_API tsr_status tsr_library_load(const char *path, tsr_text **names);
/* Registers one operator of the running program itself; the struct is copied, its strings too. The name must be new.
 * op->release is called when the operator is gone, which is now when this fails. */
struct tsr_custom_op;
TSR_API tsr_status tsr_custom_op_register(const struct tsr_custom_op *op, const char *library);
/* The registered operators, in the order of their registration; NULL beyond the last. */
TSR_API const char *tsr_custom_op_name(int32_t index);

enum {
    TSR_CUSTOM_CPU = 1,
    TSR_CUSTOM_CUDA = 2,
    TSR_CUSTOM_HIP = 4,
    TSR_CUSTOM_GRADIENT = 8 /* has one: a function or an operator */
};

typedef struct tsr_custom_op_info {
    size_t size;
    const char *name;
    const char *schema;
    const char *doc;
    const char *version;
    const char *shard;       /* "" when none is given */
    const char *samples;     /* JSON; "" when none are given */
    const char *gradient_op; /* "" when the gradient is a function, or none */
    const char *no_gradient; /* why there is none; "" when there is one */
    const char *library;     /* path of the library */
    uint64_t hash;           /* of name, schema, shard and version */
    uint32_t flags;          /* TSR_CUSTOM_CPU, ... */
    int32_t result_count;
} tsr_custom_op_info;

/* Strings stay valid for the life of the process. */
TSR_API tsr_status tsr_custom_op_describe(const char *name, tsr_custom_op_info *info);
/* Result types of a call, one a line ("f32[B, 64]"), and after an empty line the bytes of scratch memory. `inputs` is the
 * text of a graph whose inputs are the operands; its symbols may stand in `attributes`. */
TSR_API tsr_status tsr_custom_op_infer(const char *name, const char *inputs, const char *attributes, tsr_text **types);
/* The gradient of a call as the text of a graph: of the inputs "operand_0", ... and, for each result whose character in
 * `cotangents` is '1', "cotangent_0", ...; with an output "gradient_0", ... for each operand that has one. `inputs` and
 * `attributes` as above. */
TSR_API tsr_status tsr_custom_op_gradient(const char *name, const char *inputs, const char *attributes,
                                          const char *cotangents, tsr_text **graph);

#ifdef __cplusplus
}
#endif

#endif
