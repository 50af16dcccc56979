"""Operators: OpDef, the registry, one file per family, and the user's ``op`` namespace."""

# pyright: reportUnusedImport=false

# Each family registers its operators when it is imported. ``operators`` comes last: it gives tensors their methods.

from tessera.op.opdef import (
    REGISTRY,
    Input,
    NoVjp,
    OpDef,
    Sample,
    build,
    get,
    no_vjp,
    register,
)
from tessera.op.promotion import (
    as_tensor,
    constant,
)
from tessera.op.pointwise_unary import (
    abs,
    acos,
    acosh,
    asin,
    asinh,
    atan,
    atanh,
    bitwise_not,
    cast,
    ceil,
    cos,
    cosh,
    erf,
    exp,
    exp2,
    expm1,
    floor,
    isfinite,
    isinf,
    isnan,
    log,
    log1p,
    log2,
    logical_not,
    neg,
    reciprocal,
    round,
    rsqrt,
    sigmoid,
    sign,
    sin,
    sinh,
    sqrt,
    square,
    stop_gradient,
    tan,
    tanh,
    trunc,
)
from tessera.op.pointwise_binary import (
    add,
    atan2,
    bitwise_and,
    bitwise_or,
    bitwise_xor,
    clip,
    div,
    eq,
    float_power,
    floordiv,
    ge,
    gt,
    isclose,
    le,
    lerp,
    logaddexp,
    logical_and,
    logical_or,
    logical_xor,
    lt,
    maximum,
    minimum,
    mod,
    mul,
    nan_to_num,
    ne,
    pow,
    shift_left,
    shift_right,
    sub,
    where,
)
from tessera.op.reduce import (
    all,
    any,
    argmax,
    argmin,
    cumsum,
    logsumexp,
    max,
    mean,
    min,
    norm,
    prod,
    std,
    sum,
    var,
)
from tessera.op.creation import (
    arange,
    eye,
    full,
    full_like,
    iota,
    ones,
    ones_like,
    zeros,
    zeros_like,
)
from tessera.op.shape import (
    broadcast_to,
    expand_dims,
    flatten,
    moveaxis,
    permute,
    repeat,
    reshape,
    squeeze,
    swapaxes,
    tile,
    transpose,
)
from tessera.op.slicing import (
    flip,
    split,
)
from tessera.op.joining import (
    concat,
    pad,
    stack,
)
from tessera.op.triangle import (
    tril,
    triu,
)
from tessera.op.index import (
    check_range,
    gather,
    index_add,
    one_hot,
    scatter_add,
    take,
    take_along_axis,
)
from tessera.op.tensor import (
    dim,
    tensor,
)
from tessera.op.matmul import (
    dot,
    matmul,
    outer,
    scaled_matmul,
)
from tessera.op.grouped_matmul import (
    grouped_matmul,
)
from tessera.op.einsum import (
    einsum,
)
from tessera.op.activation import (
    elu,
    gelu,
    hard_sigmoid,
    hard_swish,
    leaky_relu,
    mish,
    relu,
    relu6,
    silu,
    softplus,
)
from tessera.op.softmax import (
    log_softmax,
    safe_softmax,
    softmax,
)
from tessera.op.normalization import (
    group_norm,
)
from tessera.op.attention import (
    scaled_dot_product_attention,
)
from tessera.op.cross_entropy import (
    cross_entropy,
    nll_loss,
)
from tessera.op.loss import (
    binary_cross_entropy_with_logits,
    huber,
    l1,
    mse,
)
from tessera.op.random import (
    bernoulli,
    dropout,
    normal,
    randint,
    uniform,
)
from tessera.op.parameter import (
    Parameter,
    parameter,
    parameter_of,
)
from tessera.op.modules import (
    embedding,
    layer_norm,
    linear,
    mlp,
    rms_norm,
)
from tessera.ir.value import (
    TensorType,
)
from tessera.op.custom import (
    custom,
)
from tessera.op import initializer as initializer
from tessera.op import random as random
from tessera.op import operators as operators
