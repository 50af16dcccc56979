"""Each simplification as text: what goes in and what comes out."""

# ruff: noqa: E501  a statement of a graph is one line

from __future__ import annotations

import pytest
from tessera.ir.parser import parse_graph
from tessera.ir.verify import verify
from tessera.transform.algebra import simplify_algebra
from tessera.transform.cse import eliminate_common_subexpressions
from tessera.transform.dce import drop_dead_updates
from tessera.transform.fold import fold_constants
from tessera.transform.simplify import simplify

from tests.transform.text_graphs import graph_of

F, S = "f32[4, 8]", "f32[]"


def scalar(n: int, value: str, dtype: str = "f32") -> str:
    return f"%{n} = full {{dtype = {dtype}, shape = [], value = {value}}} : {dtype}[]\n"


REWRITES = {
    # arithmetic identities, as far as IEEE allows them
    "x - 0": (scalar(0, "0.0") + f"%1 = sub(%x, %0) : {F}", 'output "y" = %x'),
    "x + -0": (scalar(0, "-0.0") + f"%1 = add(%x, %0) : {F}", 'output "y" = %x'),
    "x + 0 keeps the sign of zero": (scalar(0, "0.0") + f"%1 = add(%x, %0) : {F}", None),
    "exp(x) + 0": (scalar(0, "0.0") + f"%1 = exp(%x) : {F}\n%2 = add(%1, %0) : {F}", f"%1 = exp(%x) : {F}"),
    "0 + x*x": (scalar(0, "0.0") + f"%1 = mul(%x, %x) : {F}\n%2 = add(%0, %1) : {F}", f"%1 = mul(%x, %x) : {F}"),
    "integer x + 0": (scalar(0, "0", "i64") + "%1 = add(%0, %i) : i64[4, 8]", 'output "y" = %i'),
    "integer 0 - x": (scalar(0, "0", "i64") + "%1 = sub(%0, %i) : i64[4, 8]", "%0 = neg(%i) : i64[4, 8]"),
    "0 - x is not -x": (scalar(0, "0.0") + f"%1 = sub(%0, %x) : {F}", None),
    "-0 - x": (scalar(0, "-0.0") + f"%1 = sub(%0, %x) : {F}", f"%0 = neg(%x) : {F}"),
    "x * 1": (scalar(0, "1.0") + f"%1 = mul(%x, %0) : {F}", 'output "y" = %x'),
    "1 * x": (scalar(0, "1.0") + f"%1 = mul(%0, %x) : {F}", 'output "y" = %x'),
    "x * -1": (scalar(0, "-1.0") + f"%1 = mul(%x, %0) : {F}", f"%0 = neg(%x) : {F}"),
    "x * 0 stays: x may be infinite": (scalar(0, "0.0") + f"%1 = mul(%x, %0) : {F}", None),
    "x - x stays: x may be infinite": (f"%0 = sub(%x, %x) : {F}", None),
    "x / 1": (scalar(0, "1.0") + f"%1 = div(%x, %0) : {F}", 'output "y" = %x'),
    "x / -1": (scalar(0, "-1.0") + f"%1 = div(%x, %0) : {F}", f"%0 = neg(%x) : {F}"),
    "x / 8": (
        scalar(0, "8.0") + f"%1 = div(%x, %0) : {F}",
        scalar(0, "0.125") + f"%1 = mul(%x, %0) : {F}",
    ),
    "x / -0.25": (
        scalar(0, "-0.25") + f"%1 = div(%x, %0) : {F}",
        scalar(0, "-4.0") + f"%1 = mul(%x, %0) : {F}",
    ),
    "x / 3 stays": (scalar(0, "3.0") + f"%1 = div(%x, %0) : {F}", None),
    "x / 2**-140 stays: the inverse is infinite": (
        scalar(0, "7.174648137343064e-43") + f"%1 = div(%x, %0) : {F}",
        None,
    ),
    "integer x // 1": (scalar(0, "1", "i64") + "%1 = floordiv(%i, %0) : i64[4, 8]", 'output "y" = %i'),
    "float x // 1 stays": (scalar(0, "1.0") + f"%1 = floordiv(%x, %0) : {F}", None),
    "x ** 1": (scalar(0, "1.0") + f"%1 = pow(%x, %0) : {F}", 'output "y" = %x'),
    "x ** 2": (scalar(0, "2.0") + f"%1 = pow(%x, %0) : {F}", f"%0 = mul(%x, %x) : {F}"),
    "x ** 0": (
        scalar(0, "0.0") + f"%1 = pow(%x, %0) : {F}",
        f"%1 = full {{dtype = f32, shape = [4, 8], value = 1.0}} : {F}",
    ),
    "neg neg": (f"%0 = neg(%x) : {F}\n%1 = neg(%0) : {F}", 'output "y" = %x'),
    "x + -y": (f"%0 = neg(%y) : {F}\n%1 = add(%x, %0) : {F}", f"%0 = sub(%x, %y) : {F}"),
    "-x + y": (f"%0 = neg(%x) : {F}\n%1 = add(%0, %y) : {F}", f"%0 = sub(%y, %x) : {F}"),
    "x - -y": (f"%0 = neg(%y) : {F}\n%1 = sub(%x, %0) : {F}", f"%0 = add(%x, %y) : {F}"),
    "-x * -y": (f"%0 = neg(%x) : {F}\n%1 = neg(%y) : {F}\n%2 = mul(%0, %1) : {F}", f"%0 = mul(%x, %y) : {F}"),
    "-x * 3": (
        scalar(0, "3.0") + f"%1 = neg(%x) : {F}\n%2 = mul(%1, %0) : {F}",
        scalar(0, "-3.0") + f"%1 = mul(%x, %0) : {F}",
    ),
    "z + -x * y": (
        f"%0 = neg(%x) : {F}\n%1 = mul(%0, %y) : {F}\n%2 = add(%z, %1) : {F}",
        f"%0 = mul(%x, %y) : {F}\n%1 = sub(%z, %0) : {F}",
    ),
    "abs neg": (f"%0 = neg(%x) : {F}\n%1 = abs(%0) : {F}", f"%0 = abs(%x) : {F}"),
    "abs abs": (f"%0 = abs(%x) : {F}\n%1 = abs(%0) : {F}", f"%0 = abs(%x) : {F}"),
    "maximum(x, x)": (f"%0 = maximum(%x, %x) : {F}", 'output "y" = %x'),
    "not not": ("%0 = logical_not(%c) : bool[4, 8]\n%1 = logical_not(%0) : bool[4, 8]", 'output "y" = %c'),
    "c and true": (scalar(0, "true", "bool") + "%1 = logical_and(%c, %0) : bool[4, 8]", 'output "y" = %c'),
    "c or false": (scalar(0, "false", "bool") + "%1 = logical_or(%0, %c) : bool[4, 8]", 'output "y" = %c'),
    # where and casts
    "where(c, x, x)": (f"%0 = where(%c, %x, %x) : {F}", 'output "y" = %x'),
    "where(true, x, y)": (scalar(0, "true", "bool") + f"%1 = where(%0, %x, %y) : {F}", 'output "y" = %x'),
    "where(not c, x, y)": (
        f"%0 = logical_not(%c) : bool[4, 8]\n%1 = where(%0, %x, %y) : {F}",
        f"%0 = where(%c, %y, %x) : {F}",
    ),
    "cast to the same dtype": ("%0 = cast(%x) {dtype = f32} : f32[4, 8]", 'output "y" = %x'),
    "cast up and back": (
        "%0 = cast(%x) {dtype = f64} : f64[4, 8]\n%1 = cast(%0) {dtype = f32} : f32[4, 8]",
        'output "y" = %x',
    ),
    "cast up twice": (
        "%0 = cast(%c) {dtype = i32} : i32[4, 8]\n%1 = cast(%0) {dtype = f32} : f32[4, 8]",
        "%0 = cast(%c) {dtype = f32} : f32[4, 8]",
    ),
    "cast down and back stays": (
        "%0 = cast(%x) {dtype = bf16} : bf16[4, 8]\n%1 = cast(%0) {dtype = f32} : f32[4, 8]",
        None,
    ),
    "integer over a float to a narrower integer stays: floats saturate": (
        "%0 = cast(%i) {dtype = i8} : i8[4, 8]\n%1 = cast(%0) {dtype = f32} : f32[4, 8]\n%2 = cast(%1) {dtype = u8} : u8[4, 8]",
        None,
    ),
    "stop_gradient": (f"%0 = stop_gradient(%x) : {F}\n%1 = exp(%0) : {F}", f"%0 = exp(%x) : {F}"),
    # broadcasting
    "broadcast operand": (
        '%0 = input {name = "r"} : f32[8]\n%1 = broadcast_to(%0) {shape = [4, 8]} : f32[4, 8]\n%2 = add(%1, %x) : f32[4, 8]',
        '%0 = input {name = "r"} : f32[8]\n%1 = add(%0, %x) : f32[4, 8]',
    ),
    "broadcast moves behind": (
        '%0 = input {name = "r"} : f32[8]\n%1 = broadcast_to(%0) {shape = [4, 8]} : f32[4, 8]\n%2 = exp(%1) : f32[4, 8]',
        '%0 = input {name = "r"} : f32[8]\n%1 = exp(%0) : f32[8]\n%2 = broadcast_to(%1) {shape = [4, 8]} : f32[4, 8]',
    ),
    "full operand becomes a scalar": (
        "%0 = full {dtype = f32, shape = [4, 8], value = 2.5} : f32[4, 8]\n%1 = mul(%0, %x) : f32[4, 8]",
        scalar(0, "2.5") + f"%1 = mul(%x, %0) : {F}",
    ),
    "leading ones are implied": (
        '%0 = input {name = "r"} : f32[8]\n%1 = reshape(%0) {shape = [1, 8]} : f32[1, 8]\n%2 = mul(%x, %1) : f32[4, 8]',
        '%0 = input {name = "r"} : f32[8]\n%2 = mul(%x, %0) : f32[4, 8]',
    ),
    "identity keeps the result's shape": (
        '%0 = input {name = "r"} : f32[8]\n%1 = full {dtype = f32, shape = [4, 1], value = 1.0} : f32[4, 1]\n'
        "%2 = mul(%0, %1) : f32[4, 8]",
        '%0 = input {name = "r"} : f32[8]\n%2 = broadcast_to(%0) {shape = [4, 8]} : f32[4, 8]',
    ),
    "matmul broadcasts its batch": (
        '%0 = input {name = "a"} : f32[3, 4, 5]\n%1 = input {name = "b"} : f32[5, 6]\n'
        "%2 = broadcast_to(%1) {shape = [3, 5, 6]} : f32[3, 5, 6]\n%3 = matmul(%0, %2) : f32[3, 4, 6]",
        '%0 = input {name = "a"} : f32[3, 4, 5]\n%1 = input {name = "b"} : f32[5, 6]\n%3 = matmul(%0, %1) : f32[3, 4, 6]',
    ),
    # views
    "transpose twice": (
        "%0 = transpose(%x) {perm = [1, 0]} : f32[8, 4]\n%1 = transpose(%0) {perm = [1, 0]} : f32[4, 8]",
        'output "y" = %x',
    ),
    "transpose of sizes 1 is a reshape": (
        '%0 = input {name = "r"} : f32[1, 8, 1]\n%1 = transpose(%0) {perm = [1, 0, 2]} : f32[8, 1, 1]',
        '%0 = input {name = "r"} : f32[1, 8, 1]\n%1 = reshape(%0) {shape = [8, 1, 1]} : f32[8, 1, 1]',
    ),
    "transpose of a product": (
        '%0 = input {name = "a"} : f32[4, 5]\n%1 = transpose(%x) {perm = [1, 0]} : f32[8, 4]\n'
        "%2 = matmul(%1, %0) : f32[8, 5]\n%3 = transpose(%2) {perm = [1, 0]} : f32[5, 8]",
        '%0 = input {name = "a"} : f32[4, 5]\n%1 = transpose(%0) {perm = [1, 0]} : f32[5, 4]\n%2 = matmul(%1, %x) : f32[5, 8]',
    ),
    "reshape of a reshape": (
        "%0 = reshape(%x) {shape = [2, 16]} : f32[2, 16]\n%1 = reshape(%0) {shape = [32]} : f32[32]",
        "%0 = reshape(%x) {shape = [32]} : f32[32]",
    ),
    "reshape there and back": (
        "%0 = reshape(%x) {shape = [2, 16]} : f32[2, 16]\n%1 = reshape(%0) {shape = [4, 8]} : f32[4, 8]",
        'output "y" = %x',
    ),
    "broadcast of a broadcast": (
        '%0 = input {name = "r"} : f32[1, 8]\n%1 = broadcast_to(%0) {shape = [4, 8]} : f32[4, 8]\n'
        "%2 = broadcast_to(%1) {shape = [3, 4, 8]} : f32[3, 4, 8]",
        '%0 = input {name = "r"} : f32[1, 8]\n%2 = broadcast_to(%0) {shape = [3, 4, 8]} : f32[3, 4, 8]',
    ),
    "slice of everything": (
        "%0 = slice(%x) {start = [0, 0], step = [1, 1], stop = [4, 8]} : f32[4, 8]",
        'output "y" = %x',
    ),
    "slice of a slice": (
        "%0 = slice(%x) {start = [1, 0], step = [1, 2], stop = [4, 8]} : f32[3, 4]\n"
        "%1 = slice(%0) {start = [1, 1], step = [1, 2], stop = [3, 4]} : f32[2, 2]",
        "%0 = slice(%x) {start = [2, 2], step = [1, 4], stop = [4, 7]} : f32[2, 2]",
    ),
    "slice of a pad": (
        "%0 = pad(%x) {high = [2, 1], low = [1, 0], value = 0.0} : f32[7, 9]\n"
        "%1 = slice(%0) {start = [1, 0], step = [1, 1], stop = [5, 8]} : f32[4, 8]",
        'output "y" = %x',
    ),
    "slice of one operand of a concat": (
        "%0 = concat(%x, %y) {axis = 0} : f32[8, 8]\n%1 = slice(%0) {start = [4, 0], step = [1, 1], stop = [8, 8]} : f32[4, 8]",
        'output "y" = %y',
    ),
    "slice inside one operand of a concat": (
        "%0 = concat(%x, %y) {axis = 0} : f32[8, 8]\n%1 = slice(%0) {start = [5, 0], step = [1, 1], stop = [7, 8]} : f32[2, 8]",
        "%0 = slice(%y) {start = [1, 0], step = [1, 1], stop = [3, 8]} : f32[2, 8]",
    ),
    "pad by nothing": ("%0 = pad(%x) {high = [0, 0], low = [0, 0], value = 0.0} : f32[4, 8]", 'output "y" = %x'),
    "pad of a pad": (
        "%0 = pad(%x) {high = [0, 1], low = [1, 0], value = 0.0} : f32[5, 9]\n"
        "%1 = pad(%0) {high = [2, 0], low = [0, 3], value = 0.0} : f32[7, 12]",
        "%0 = pad(%x) {high = [2, 1], low = [1, 3], value = 0.0} : f32[7, 12]",
    ),
    "pad with another value stays": (
        "%0 = pad(%x) {high = [0, 1], low = [1, 0], value = 0.0} : f32[5, 9]\n"
        "%1 = pad(%0) {high = [2, 0], low = [0, 3], value = -0.0} : f32[7, 12]",
        None,
    ),
    "flip twice": (
        "%0 = flip(%x) {axes = [0, 1]} : f32[4, 8]\n%1 = flip(%0) {axes = [1]} : f32[4, 8]",
        "%0 = flip(%x) {axes = [0]} : f32[4, 8]",
    ),
    "concat of one": ("%0 = concat(%x) {axis = 0} : f32[4, 8]", 'output "y" = %x'),
    "concat of a concat": (
        "%0 = concat(%x, %y) {axis = 0} : f32[8, 8]\n%1 = concat(%0, %z) {axis = 0} : f32[12, 8]",
        "%0 = concat(%x, %y, %z) {axis = 0} : f32[12, 8]",
    ),
    "view of a full": (
        "%0 = full {dtype = f32, shape = [4, 8], value = 3.0} : f32[4, 8]\n%1 = transpose(%0) {perm = [1, 0]} : f32[8, 4]\n"
        "%2 = reshape(%1) {shape = [32]} : f32[32]\n%3 = pad(%2) {high = [1], low = [1], value = 3.0} : f32[34]",
        "%0 = full {dtype = f32, shape = [34], value = 3.0} : f32[34]",
    ),
    # reductions
    "sum over size 1": (
        '%0 = input {name = "r"} : f32[4, 1]\n%1 = sum(%0) {axes = [1], keepdims = false} : f32[4]',
        '%0 = input {name = "r"} : f32[4, 1]\n%1 = reshape(%0) {shape = [4]} : f32[4]',
    ),
    "sum of integers over size 1": (
        '%0 = input {name = "r"} : i32[4, 1]\n%1 = sum(%0) {axes = [1], keepdims = true} : i64[4, 1]',
        '%0 = input {name = "r"} : i32[4, 1]\n%1 = cast(%0) {dtype = i64} : i64[4, 1]',
    ),
    "sum of a full": (
        "%0 = full {dtype = f32, shape = [4, 8], value = 0.5} : f32[4, 8]\n%1 = sum(%0) {axes = [1], keepdims = false} : f32[4]",
        "%0 = full {dtype = f32, shape = [4], value = 4.0} : f32[4]",
    ),
    "max of a full": (
        "%0 = full {dtype = f32, shape = [4, 8], value = 0.5} : f32[4, 8]\n%1 = max(%0) {axes = [0, 1], keepdims = false} : f32[]",
        "%0 = full {dtype = f32, shape = [], value = 0.5} : f32[]",
    ),
    "argmax over size 1": (
        '%0 = input {name = "r"} : f32[4, 1]\n%1 = argmax(%0) {axis = 1, keepdims = false} : i64[4]',
        '%0 = input {name = "r"} : f32[4, 1]\n%1 = full {dtype = i64, shape = [4], value = 0} : i64[4]',
    ),
    "reduced dimensions put back": (
        "%0 = sum(%x) {axes = [1], keepdims = false} : f32[4]\n%1 = reshape(%0) {shape = [4, 1]} : f32[4, 1]",
        "%0 = sum(%x) {axes = [1], keepdims = true} : f32[4, 1]",
    ),
    # folding
    "fold numbers": (
        scalar(0, "2.0") + scalar(1, "3.0") + f"%2 = mul(%0, %1) : {S}\n%3 = exp(%2) : {S}\n%4 = mul(%3, %x) : {F}",
        scalar(0, "403.4288024902344") + f"%1 = mul(%x, %0) : {F}",
    ),
    "fold a comparison that always holds": (
        "%0 = iota {axis = 0, dtype = i64, shape = [8]} : i64[8]\n"
        + scalar(1, "8", "i64")
        + f"%2 = lt(%0, %1) : bool[8]\n%3 = where(%2, %x, %y) : {F}",
        'output "y" = %x',
    ),
    "an iota that is not constant stays": (
        "%0 = iota {axis = 0, dtype = f32, shape = [8]} : f32[8]\n%1 = mul(%0, %x) : f32[4, 8]",
        None,
    ),
    # common subexpressions
    "same node twice": (
        f"%0 = exp(%x) : {F}\n%1 = exp(%x) : {F}\n%2 = mul(%0, %1) : {F}",
        f"%0 = exp(%x) : {F}\n%2 = mul(%0, %0) : {F}",
    ),
    "commutative operands": (
        f"%0 = add(%x, %y) : {F}\n%1 = add(%y, %x) : {F}\n%2 = mul(%0, %1) : {F}",
        f"%0 = add(%x, %y) : {F}\n%2 = mul(%0, %0) : {F}",
    ),
    "0.0 and -0.0 are not the same": (
        scalar(0, "0.0")
        + scalar(1, "-0.0")
        + f"%2 = maximum(%x, %0) : {F}\n%3 = maximum(%x, %1) : {F}\n%4 = div(%2, %3) : {F}",
        None,
    ),
    "a draw with the same key and id": (
        '%0 = param {name = "key", trainable = false} : i64[2]\n'
        "%1 = random_uniform(%0) {dtype = f32, id = 7, shape = [4, 8]} : f32[4, 8]\n"
        "%2 = random_uniform(%0) {dtype = f32, id = 7, shape = [4, 8]} : f32[4, 8]\n%3 = sub(%1, %2) : f32[4, 8]",
        '%0 = param {name = "key", trainable = false} : i64[2]\n'
        "%1 = random_uniform(%0) {dtype = f32, id = 7, shape = [4, 8]} : f32[4, 8]\n%3 = sub(%1, %1) : f32[4, 8]",
    ),
    "draws with different ids": (
        '%0 = param {name = "key", trainable = false} : i64[2]\n'
        "%1 = random_uniform(%0) {dtype = f32, id = 7, shape = [4, 8]} : f32[4, 8]\n"
        "%2 = random_uniform(%0) {dtype = f32, id = 8, shape = [4, 8]} : f32[4, 8]\n%3 = sub(%1, %2) : f32[4, 8]",
        None,
    ),
}


@pytest.mark.parametrize("name", REWRITES)
def test_rewrite(name: str) -> None:
    before, after = REWRITES[name]
    graph = graph_of(before)
    found = simplify(graph)
    verify(found)
    # An input that is no longer used stays an input.
    expected = (
        graph if after is None else graph_of(after, unused="".join(str(v.node.attrs["name"]) for v in graph.inputs))
    )
    assert str(found) == str(expected)


def test_symbolic_sizes() -> None:
    text = """tessera.graph 1
graph "main" {
  dim B in [1, 64] multiple_of 1
  %0 = input {name = "x"} : f32[B, 8]
  %1 = full {dtype = f32, shape = [<B>, 8], value = 1.0} : f32[B, 8]
  %2 = mul(%0, %1) : f32[B, 8]
  %3 = reshape(%2) {shape = [<8*B>]} : f32[8*B]
  %4 = reshape(%3) {shape = [<B>, 8]} : f32[B, 8]
  %5 = concat(%4, %0) {axis = 0} : f32[2*B, 8]
  %6 = slice(%5) {start = [<B>, 0], step = [1, 1], stop = [<2*B>, 8]} : f32[B, 8]
  %7 = sum(%1) {axes = [0], keepdims = false} : f32[8]
  output "a" = %6
  output "b" = %7
}
"""
    found = simplify(parse_graph(text))
    verify(found)
    assert found.outputs["a"] is found.inputs[0]
    assert found.outputs["b"].node.op == "sum"  # the number of elements is not known


def test_updates_that_change_nothing_are_dropped() -> None:
    graph = graph_of("""
        %0 = param {name = "w", trainable = true} : f32[4, 8]
        %1 = param {name = "v", trainable = true} : f32[4, 8]
        %2 = param {name = "alone", trainable = true} : f32[4, 8]
        %3 = full {dtype = f32, shape = [], value = 1.0} : f32[]
        %4 = mul(%0, %3) : f32[4, 8]
        %5 = add(%1, %0) : f32[4, 8]
        update %0 = %4
        update %1 = %5
        update %2 = %2
    """)
    found = simplify(graph)
    # "alone" is state of the graph only through its update.
    assert [p.node.attrs["name"] for p in found.updates] == ["v", "alone"]
    assert sorted(p.node.attrs["name"] for p in found.params()) == ["alone", "v", "w"]
    assert drop_dead_updates(found) is found


@pytest.mark.parametrize("one_pass", [simplify_algebra, fold_constants, eliminate_common_subexpressions, simplify])
def test_nothing_to_do_returns_the_same_values(one_pass) -> None:
    graph = graph_of("%0 = exp(%x) : f32[4, 8]\n%1 = add(%0, %y) : f32[4, 8]")
    found = one_pass(graph)
    assert found.outputs["y"] is graph.outputs["y"]


def test_locations_are_kept() -> None:
    graph = graph_of(
        '%0 = full {dtype = f32, shape = [4, 8], value = 8.0} : f32[4, 8] at "a.py":1\n%1 = div(%x, %0) : f32[4, 8] at "b.py":2'
    )
    assert str(simplify(graph).outputs["y"].node.loc) == "b.py:2"


def test_unused_inputs_stay() -> None:
    graph = graph_of("%0 = mul(%x, %y) : f32[4, 8]\n%1 = where(%c, %z, %z) : f32[4, 8]")
    assert [v.node.attrs["name"] for v in simplify(graph).inputs] == [v.node.attrs["name"] for v in graph.inputs]
