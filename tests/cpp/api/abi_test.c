/* The C ABI, frozen: sizes and offsets of its structs, values of its constants. Also that the header is plain C. */
#include <stdio.h>
#include <string.h>

#include "tessera/c_api.h"
#include "tessera/custom_op_abi.h"

#define SIZE(type, bytes) _Static_assert(sizeof(type) == bytes, #type " changed its size")
#define AT(type, field, bytes) _Static_assert(offsetof(type, field) == bytes, #type "." #field " moved")

SIZE(tsr_tensor_info, 64);
AT(tsr_tensor_info, size, 0);
AT(tsr_tensor_info, data, 8);
AT(tsr_tensor_info, bytes, 16);
AT(tsr_tensor_info, shape, 24);
AT(tsr_tensor_info, strides, 32);
AT(tsr_tensor_info, rank, 40);
AT(tsr_tensor_info, dtype, 44);
AT(tsr_tensor_info, device_type, 48);
AT(tsr_tensor_info, device_index, 52);
AT(tsr_tensor_info, flags, 56);

SIZE(tsr_load_options, 24);
AT(tsr_load_options, target, 8);
AT(tsr_load_options, flags, 16);

SIZE(tsr_value_info, 40);
AT(tsr_value_info, name, 8);
AT(tsr_value_info, shape, 16);
AT(tsr_value_info, rank, 24);
AT(tsr_value_info, dtype, 28);
AT(tsr_value_info, flags, 32);

SIZE(tsr_symbol_info, 40);
AT(tsr_symbol_info, name, 8);
AT(tsr_symbol_info, min, 16);
AT(tsr_symbol_info, max, 24);
AT(tsr_symbol_info, multiple_of, 32);

SIZE(tsr_requirements, 48);
AT(tsr_requirements, arena, 8);
AT(tsr_requirements, scratch, 16);
AT(tsr_requirements, inputs, 24);
AT(tsr_requirements, outputs, 32);
AT(tsr_requirements, state, 40);

SIZE(tsr_runtime_options, 88); /* 16 in version 1 */
AT(tsr_runtime_options, threads, 8);
AT(tsr_runtime_options, allocator, 16);
AT(tsr_runtime_options, parallel_for, 24);
AT(tsr_runtime_options, parallel_context, 32);
AT(tsr_runtime_options, trace, 40);
AT(tsr_runtime_options, log, 48);
AT(tsr_runtime_options, log_context, 56);
AT(tsr_runtime_options, log_level, 64);
AT(tsr_runtime_options, destroy, 72);
AT(tsr_runtime_options, destroy_context, 80);

SIZE(tsr_allocator_options, 40);
AT(tsr_allocator_options, context, 8);
AT(tsr_allocator_options, allocate, 16);
AT(tsr_allocator_options, release, 24);
AT(tsr_allocator_options, destroy, 32);

SIZE(tsr_allocator_statistics, 40);
AT(tsr_allocator_statistics, bytes_in_use, 8);
AT(tsr_allocator_statistics, peak_bytes, 16);
AT(tsr_allocator_statistics, allocations, 24);
AT(tsr_allocator_statistics, releases, 32);

SIZE(tsr_trace_event, 64);
AT(tsr_trace_event, category, 8);
AT(tsr_trace_event, name, 16);
AT(tsr_trace_event, location, 24);
AT(tsr_trace_event, begin_ns, 32);
AT(tsr_trace_event, end_ns, 40);
AT(tsr_trace_event, thread, 48);
AT(tsr_trace_event, device_type, 56);
AT(tsr_trace_event, device_index, 60);

SIZE(tsr_trace_options, 32);
AT(tsr_trace_options, function, 8);
AT(tsr_trace_options, context, 16);
AT(tsr_trace_options, destroy, 24);

SIZE(tsr_run_options, 48);
AT(tsr_run_options, stream, 8);
AT(tsr_run_options, workspace, 16);
AT(tsr_run_options, cancel, 24);
AT(tsr_run_options, trace, 32);
AT(tsr_run_options, flags, 40);

SIZE(tsr_run_info, 32);
AT(tsr_run_info, queued_ns, 8);
AT(tsr_run_info, run_ns, 16);
AT(tsr_run_info, finished, 24);
AT(tsr_run_info, status, 28);

SIZE(tsr_operand, 40);
AT(tsr_operand, dim, 8);
AT(tsr_operand, real, 16);
AT(tsr_operand, integer, 24);
AT(tsr_operand, kind, 32);

SIZE(tsr_call, 64);
AT(tsr_call, function, 8);
AT(tsr_call, arguments, 16);
AT(tsr_call, operands, 24);
AT(tsr_call, dims, 32);
AT(tsr_call, file, 40);
AT(tsr_call, line, 48);
AT(tsr_call, operand_count, 52);
AT(tsr_call, dim_count, 56);

SIZE(tsr_graph_trace_options, 56);
AT(tsr_graph_trace_options, name, 8);
AT(tsr_graph_trace_options, output_names, 16);
AT(tsr_graph_trace_options, outputs, 24);
AT(tsr_graph_trace_options, parameters, 32);
AT(tsr_graph_trace_options, updates, 40);
AT(tsr_graph_trace_options, output_count, 48);
AT(tsr_graph_trace_options, update_count, 52);

SIZE(tsr_custom_op_info, 96);
AT(tsr_custom_op_info, name, 8);
AT(tsr_custom_op_info, library, 72);
AT(tsr_custom_op_info, hash, 80);
AT(tsr_custom_op_info, flags, 88);
AT(tsr_custom_op_info, result_count, 92);

SIZE(tsr_attribute, 56);
AT(tsr_attribute, kind, 8);
AT(tsr_attribute, count, 12);
AT(tsr_attribute, integer, 16);
AT(tsr_attribute, real, 24);
AT(tsr_attribute, text, 32);
AT(tsr_attribute, dim, 40);
AT(tsr_attribute, items, 48);

SIZE(tsr_custom_type, 24);
AT(tsr_custom_type, dtype, 8);
AT(tsr_custom_type, rank, 12);
AT(tsr_custom_type, shape, 16);

SIZE(tsr_custom_types, 56);
AT(tsr_custom_types, operands, 8);
AT(tsr_custom_types, attributes, 16);
AT(tsr_custom_types, operand_count, 24);
AT(tsr_custom_types, attribute_count, 28);
AT(tsr_custom_types, give_result, 32);
AT(tsr_custom_types, give_scratch, 40);
AT(tsr_custom_types, runtime, 48);

SIZE(tsr_custom_tensor, 32);
AT(tsr_custom_tensor, data, 8);
AT(tsr_custom_tensor, shape, 16);
AT(tsr_custom_tensor, rank, 24);
AT(tsr_custom_tensor, dtype, 28);

SIZE(tsr_custom_call, 104);
AT(tsr_custom_call, operands, 8);
AT(tsr_custom_call, results, 16);
AT(tsr_custom_call, attributes, 24);
AT(tsr_custom_call, operand_count, 32);
AT(tsr_custom_call, result_count, 36);
AT(tsr_custom_call, attribute_count, 40);
AT(tsr_custom_call, device_type, 44);
AT(tsr_custom_call, device_index, 48);
AT(tsr_custom_call, threads, 52);
AT(tsr_custom_call, stream, 56);
AT(tsr_custom_call, scratch, 64);
AT(tsr_custom_call, scratch_bytes, 72);
AT(tsr_custom_call, parallel_for, 80);
AT(tsr_custom_call, cancelled, 88);
AT(tsr_custom_call, runtime, 96);

SIZE(tsr_custom_gradient, 64);
AT(tsr_custom_gradient, operands, 8);
AT(tsr_custom_gradient, results, 16);
AT(tsr_custom_gradient, cotangents, 24);
AT(tsr_custom_gradient, attributes, 32);
AT(tsr_custom_gradient, operand_count, 40);
AT(tsr_custom_gradient, result_count, 44);
AT(tsr_custom_gradient, attribute_count, 48);
AT(tsr_custom_gradient, gradients, 56);

SIZE(tsr_custom_op, 128);
AT(tsr_custom_op, name, 8);
AT(tsr_custom_op, schema, 16);
AT(tsr_custom_op, doc, 24);
AT(tsr_custom_op, version, 32);
AT(tsr_custom_op, shard, 40);
AT(tsr_custom_op, samples, 48);
AT(tsr_custom_op, gradient_op, 56);
AT(tsr_custom_op, no_gradient, 64);
AT(tsr_custom_op, context, 72);
AT(tsr_custom_op, release, 80);
AT(tsr_custom_op, infer, 88);
AT(tsr_custom_op, cpu, 96);
AT(tsr_custom_op, cuda, 104);
AT(tsr_custom_op, hip, 112);
AT(tsr_custom_op, gradient, 120);

SIZE(tsr_custom_library, 24);
AT(tsr_custom_library, abi_version, 8);
AT(tsr_custom_library, op_count, 12);
AT(tsr_custom_library, ops, 16);
_Static_assert(TSR_CUSTOM_ABI_VERSION == 1 && TSR_ATTRIBUTE_NONE == 0 && TSR_ATTRIBUTE_BOOL == 1 &&
                   TSR_ATTRIBUTE_INTEGER == 2 && TSR_ATTRIBUTE_REAL == 3 && TSR_ATTRIBUTE_STRING == 4 &&
                   TSR_ATTRIBUTE_DTYPE == 5 && TSR_ATTRIBUTE_DIM == 6 && TSR_ATTRIBUTE_LIST == 7,
               "kinds of attributes changed");
_Static_assert(TSR_CUSTOM_CPU == 1 && TSR_CUSTOM_CUDA == 2 && TSR_CUSTOM_HIP == 4 && TSR_CUSTOM_GRADIENT == 8,
               "flags of custom operators changed");
_Static_assert(TSR_DIM_ADD == 0 && TSR_DIM_SUB == 1 && TSR_DIM_MUL == 2 && TSR_DIM_FLOORDIV == 3 && TSR_DIM_MOD == 4 &&
                   TSR_DIM_MAX == 5 && TSR_DIM_MIN == 6,
               "functions of dimensions changed");

_Static_assert(TSR_F64 == 0 && TSR_F32 == 1 && TSR_BF16 == 2 && TSR_F16 == 3 && TSR_F8E4M3 == 4 && TSR_F8E5M2 == 5 &&
                   TSR_I64 == 6 && TSR_I32 == 7 && TSR_I16 == 8 && TSR_I8 == 9 && TSR_U8 == 10 && TSR_BOOL == 11,
               "dtype codes changed");
_Static_assert(TSR_OK == 0 && TSR_ERROR == 1 && TSR_SHAPE_ERROR == 2 && TSR_DTYPE_ERROR == 3 && TSR_ARGUMENT_ERROR == 4 &&
                   TSR_NAME_MISSING_ERROR == 5 && TSR_INDEX_RANGE_ERROR == 6 && TSR_FORMAT_ERROR == 7 &&
                   TSR_VERSION_ERROR == 8 && TSR_DEVICE_ERROR == 9 && TSR_UNSUPPORTED_ERROR == 10 &&
                   TSR_GRADIENT_ERROR == 11 && TSR_GRAPH_ERROR == 12 && TSR_COMPILE_ERROR == 13 &&
                   TSR_OUT_OF_MEMORY_ERROR == 14 && TSR_FILE_ACCESS_ERROR == 15 && TSR_CANCELLED_ERROR == 16 && TSR_INTERNAL_ERROR == 99,
               "status codes changed");
_Static_assert(TSR_CPU == 1 && TSR_CUDA == 2 && TSR_ROCM == 10, "device types changed");
_Static_assert(TSR_INPUT == 0 && TSR_OUTPUT == 1 && TSR_STATE == 2 && TSR_CONSTANT == 3, "value kinds changed");
_Static_assert(TSR_LOAD_SKIP_HASHES == 1 && TSR_LOAD_NO_NATIVE_CODE == 2 && TSR_LOAD_COPY == 4, "load flags changed");
_Static_assert(TSR_TENSOR_READONLY == 1 && TSR_TENSOR_CONTIGUOUS == 2 && TSR_TENSOR_LAZY == 4 && TSR_TENSOR_SYMBOLIC == 8,
               "tensor flags changed");
_Static_assert(TSR_OPERAND_NONE == 0 && TSR_OPERAND_TENSOR == 1 && TSR_OPERAND_BOOL == 2 && TSR_OPERAND_INTEGER == 3 &&
                   TSR_OPERAND_REAL == 4 && TSR_OPERAND_DIM == 5,
               "operand kinds changed");

_Static_assert(TSR_LOG_DEBUG == 0 && TSR_LOG_INFO == 1 && TSR_LOG_WARNING == 2 && TSR_LOG_ERROR == 3, "log levels changed");

static int failures = 0;

static void expect(int held, const char *what) {
    if (held)
        return;
    ++failures;
    printf("failed: %s\n", what);
}

static void test_meshes(void) {
    const char *axes[2] = {"dp", "tp"}, *twice[2] = {"dp", "dp"};
    const int64_t sizes[2] = {2, 3}, none[2] = {0, 3};
    tsr_group *group = NULL;
    tsr_communicator *communicator = NULL;
    uint64_t bytes = 1, calls = 1;
    expect(tsr_group_create_local(twice, sizes, 2, 1000, &group) == TSR_ARGUMENT_ERROR, "an axis twice");
    expect(tsr_group_create_local(axes, none, 2, 1000, &group) == TSR_ARGUMENT_ERROR, "an axis without devices");
    expect(tsr_group_create_local(axes, sizes, 2, 0, &group) == TSR_ARGUMENT_ERROR, "no time to wait");
    expect(tsr_group_create_local(axes, sizes, 2, 1000, &group) == TSR_OK && group != NULL, "a group is made");
    expect(tsr_group_communicator(group, 6, &communicator) == TSR_ARGUMENT_ERROR, "there is no device 6");
    expect(tsr_group_communicator(group, 5, &communicator) == TSR_OK && communicator != NULL, "device 5");
    expect(tsr_communicator_traffic(communicator, &bytes, &calls) == TSR_OK && bytes == 0 && calls == 0, "no traffic");
    expect(tsr_communicator_reset_traffic(communicator) == TSR_OK, "the count begins again");
    expect(tsr_group_fail(group, "stopped") == TSR_OK && tsr_group_reset(group) == TSR_OK, "failure and reset");
    expect(tsr_graph_set_communicator(NULL, communicator) == TSR_ARGUMENT_ERROR, "no graph");
    expect(tsr_graph_set_size(NULL, "B", 1) == TSR_ARGUMENT_ERROR, "no graph to size");
    tsr_group_release(group);
    tsr_communicator_release(communicator);
    tsr_group_release(NULL);
    tsr_communicator_release(NULL);
}

int main(void) {
    tsr_tensor_info info;
    tsr_tensor *tensor = NULL;
    tsr_dtype dtype = -1;
    const int64_t shape[2] = {2, 3};

    test_meshes();

    expect(tsr_abi_version() == TSR_ABI_VERSION, "the library is of the header's version");
    expect(tsr_file_verify("/no/such/file") == TSR_FILE_ACCESS_ERROR, "a file that is not there is no verified file");
    expect(strlen(tsr_version()) > 0, "the library has a version");
    expect(tsr_dtype_parse("bf16", &dtype) == TSR_OK && dtype == TSR_BF16, "bf16");
    expect(tsr_dtype_parse("bf17", &dtype) == TSR_DTYPE_ERROR && strstr(tsr_last_error(), "bf17") != NULL, "bf17");
    expect(tsr_dtype_name(77) == NULL && tsr_dtype_size(77) == 0 && tsr_dtype_size(TSR_I16) == 2, "dtype sizes");

    memset(&info, 0, sizeof info);
    expect(tsr_tensor_create(&info, &tensor) == TSR_ARGUMENT_ERROR, "a struct without its size is rejected");
    expect(tsr_tensor_create(NULL, &tensor) == TSR_ARGUMENT_ERROR, "a null struct is rejected");
    info.size = sizeof info;
    info.shape = shape;
    info.rank = 2;
    info.dtype = TSR_F32;
    expect(tsr_tensor_create(&info, &tensor) == TSR_DEVICE_ERROR && tensor == NULL, "device 0 does not exist");
    info.device_type = TSR_CPU;
    info.rank = -1;
    expect(tsr_tensor_create(&info, &tensor) == TSR_SHAPE_ERROR, "a negative rank is rejected");
    info.rank = 2;
    info.dtype = 77;
    expect(tsr_tensor_create(&info, &tensor) == TSR_DTYPE_ERROR, "an unknown dtype is rejected");
    info.dtype = TSR_F32;
    expect(tsr_tensor_create(&info, &tensor) == TSR_OK && tensor != NULL, "a tensor is made");
    expect(tsr_tensor_describe(tensor, &info) == TSR_OK && info.bytes == 24 && info.strides[0] == 3, "it is described");
    expect(info.flags == TSR_TENSOR_CONTIGUOUS && ((float *)info.data)[5] == 0.0f, "it is zero");
    tsr_tensor_retain(tensor);
    tsr_tensor_release(tensor);
    tsr_tensor_release(tensor);
    tsr_tensor_release(NULL);
    tsr_graph_release(NULL);
    {
        struct { size_t size; int32_t threads; uint32_t reserved; } version_1 = {16, 1, 0};
        tsr_runtime *runtime = NULL;
        expect(tsr_runtime_create((const tsr_runtime_options *)&version_1, &runtime) == TSR_OK, "options of version 1");
        expect(tsr_runtime_threads(runtime) == 1, "its threads");
        tsr_runtime_release(runtime);
        version_1.size = 8;
        expect(tsr_runtime_create((const tsr_runtime_options *)&version_1, &runtime) == TSR_ARGUMENT_ERROR, "too short");
    }
    tsr_runtime_release(NULL);
    tsr_run_release(NULL);
    expect(tsr_graph_load_file(NULL, NULL, NULL) == TSR_ARGUMENT_ERROR, "a null path is rejected");
    expect(tsr_op_call(NULL, &tensor, 1, NULL) == TSR_ARGUMENT_ERROR, "a null call is rejected");
    expect(tsr_graph_save(NULL, "x") == TSR_ARGUMENT_ERROR, "a null graph is rejected");
    expect(tsr_op_function_name(0) != NULL && tsr_op_function_name(-1) == NULL, "functions have names");
    expect(tsr_set_error(TSR_SHAPE_ERROR, "text") == TSR_SHAPE_ERROR && strcmp(tsr_last_error(), "text") == 0, "set_error");
    printf("%d failures\n", failures);
    return failures ? 1 : 0;
}
