// The program's own kernels, as nvcc would make them.
#pragma once

// to_float(bytes, out, count): out[i] = bytes[i] / 255
// largest(scores, best, rows, columns): best[i] = where row i is largest
inline const char *const kernels = R"(
.version 7.0
.target sm_80
.address_size 64

.visible .entry to_float(.param .u64 bytes, .param .u64 out, .param .u64 count)
{
    .reg .pred %done;
    .reg .f32 %value;
    .reg .u16 %byte;
    .reg .u32 %block, %size, %thread;
    .reg .u64 %i, %n, %from, %to;
    mov.u32 %block, %ctaid.x;
    mov.u32 %size, %ntid.x;
    mov.u32 %thread, %tid.x;
    mul.wide.u32 %i, %block, %size;
    cvt.u64.u32 %n, %thread;
    add.u64 %i, %i, %n;
    ld.param.u64 %n, [count];
    setp.ge.u64 %done, %i, %n;
    @%done ret;
    ld.param.u64 %from, [bytes];
    ld.param.u64 %to, [out];
    add.u64 %from, %from, %i;
    shl.b64 %i, %i, 2;
    add.u64 %to, %to, %i;
    ld.global.u8 %byte, [%from];
    cvt.rn.f32.u16 %value, %byte;
    div.rn.f32 %value, %value, 0f437F0000;
    st.global.f32 [%to], %value;
    ret;
}

.visible .entry largest(.param .u64 scores, .param .u64 best, .param .u32 rows, .param .u32 columns)
{
    .reg .pred %p;
    .reg .f32 %most, %value;
    .reg .u32 %row, %size, %thread, %n, %k, %at;
    .reg .u64 %from, %to, %offset;
    mov.u32 %row, %ctaid.x;
    mov.u32 %size, %ntid.x;
    mov.u32 %thread, %tid.x;
    mad.lo.u32 %row, %row, %size, %thread;
    ld.param.u32 %n, [rows];
    setp.ge.u32 %p, %row, %n;
    @%p ret;
    ld.param.u32 %n, [columns];
    ld.param.u64 %from, [scores];
    ld.param.u64 %to, [best];
    mul.wide.u32 %offset, %row, 4;
    add.u64 %to, %to, %offset;
    mul.lo.u32 %row, %row, %n;
    mul.wide.u32 %offset, %row, 4;
    add.u64 %from, %from, %offset;
    ld.global.f32 %most, [%from];
    mov.u32 %at, 0;
    mov.u32 %k, 1;
next:
    setp.ge.u32 %p, %k, %n;
    @%p bra end;
    add.u64 %from, %from, 4;
    ld.global.f32 %value, [%from];
    setp.gt.f32 %p, %value, %most;
    @%p mov.f32 %most, %value;
    @%p mov.u32 %at, %k;
    add.u32 %k, %k, 1;
    bra next;
end:
    st.global.u32 [%to], %at;
    ret;
}
)";
