"""The text form: printing, reading back, and what is said about malformed text."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera import op
from tessera.errors import GraphError, NameMissingError, TesseraError, VersionError
from tessera.ir.attribute import attribute_text, attributes_key
from tessera.ir.dims import Symbol, sym
from tessera.ir.dtype import DTYPES, f32
from tessera.ir.graph import Graph
from tessera.ir.parser import parse_graph
from tessera.ir.printer import print_graph
from tessera.ir.provenance import Location
from tessera.ir.value import Node, TensorType, Value
from tessera.op.opdef import build
from tessera.transform.autodiff import gradients

EXAMPLE = """\
tessera.graph 1
graph "main" {
  dim B in [1, 4096] multiple_of 8
  dim T in [0, inf] multiple_of 1
  %0 = input {name = "x"} : f32[B, 64]
  %1 = input {name = "unused"} : bf16[max(2*T + 1, B), (T // 2)]
  %2 = param {name = "mlp.0.weight", trainable = true} : f32[64, 256]
  %3 = matmul(%0, %2) : f32[B, 256] at "train.py":12
  %4 = full {dtype = f32, shape = [<B>, 256], value = 1e-05} : f32[B, 256] at "a \\"b\\"\\n.py":13
  %5 = mul(%3, %4) : f32[B, 256]
  %6 = constant {name = "table"} : i64[10]
  %7 = take(%6, %6) {axis = 0} : i64[10]
  %8 = sum(%5) {axes = [0, 1], keepdims = false} : f32[]
  %9 = broadcast_to(%8) {shape = [64, 256]} : f32[64, 256]
  output "logits" = %5
  output "é \\t" = %7
  update %2 = %9
}
"""


def test_print_of_parse_is_the_text() -> None:
    graph = parse_graph(EXAMPLE)
    assert str(graph) == print_graph(graph) == EXAMPLE
    assert [v.node.attrs["name"] for v in graph.inputs] == ["x", "unused"]
    assert list(graph.outputs) == ["logits", "é \t"]
    assert [(p.node.attrs["name"], str(v.type)) for p, v in graph.updates.items()] == [("mlp.0.weight", "f32[64, 256]")]
    assert graph.symbols() == [Symbol("B", 1, 4096, 8), Symbol("T")]
    assert graph.outputs["logits"].node.operands[1].node.loc == Location('a "b"\n.py', 13)


def test_comments_spaces_and_numbering_do_not_matter() -> None:
    text = (
        re.sub("(?m)$", "   # comment: %9 = {", EXAMPLE)
        .replace("  %", "\t%")
        .replace(" = ", "  =  ")
        .replace("%", "%10")
    )
    assert str(parse_graph("\n# head\n\n" + text.replace("\n", "\r\n"))) == EXAMPLE


def test_payloads_by_name() -> None:
    table, weight = np.arange(10), object()
    graph = parse_graph(EXAMPLE, {"table": table, "mlp.0.weight": weight})
    assert graph.constants()[0].node.payload is table and graph.params()[0].node.payload is weight
    assert parse_graph(EXAMPLE).constants()[0].node.payload is None


def test_a_whole_gradient_graph_prints_and_parses() -> None:
    batch = op.dim("B", min=1, max=64)
    x, w = op.tensor((batch, 8), dtype="f32", name="x"), op.tensor((8, 4), dtype="f32", name="w")
    labels = op.tensor((batch,), dtype="i64", name="labels")
    loss = op.cross_entropy(op.gelu(x @ w), labels)
    graph = Graph({"loss": loss, "dw": gradients([loss], [w])[0]}, inputs=[labels, w, x])
    text = str(graph)
    again = parse_graph(text)
    assert str(again) == text and [v.node.attrs["name"] for v in again.inputs] == ["labels", "w", "x"]
    assert str(parse_graph(str(again))) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (-7, "-7"),
        (2**63, "9223372036854775808"),
        (True, "true"),
        (False, "false"),
        (None, "none"),
        (1.0, "1.0"),
        (0.1, "0.1"),
        (-0.0, "-0.0"),
        (1e300, "1e+300"),
        (5e-324, "5e-324"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
        ("", '""'),
        ('a"b\\\n\t\x00', '"a\\"b\\\\\\n\\t\\u0000"'),
        ("ü ☃", '"ü ☃"'),
        ("\ud800", '"\\ud800"'),
        (f32, "f32"),
        (sym(Symbol("B")) * 2 + 1, "<2*B + 1>"),
        ([], "[]"),
        ((1, [2.0, "x"]), '[1, [2.0, "x"]]'),
    ],
)
def test_attribute_values(value: object, text: str) -> None:
    assert attribute_text(value) == text
    head = 'tessera.graph 1\ngraph "g" {\n  dim B in [0, inf] multiple_of 1\n  %0 = input {name = "x"} : f32[B]\n'

    body = f"  %1 = nothing(%0) {{a = {text}}} : f32[]\n}}\n"
    with pytest.raises(NameMissingError, match=r"line 5, column 8: unknown operator 'nothing'"):
        parse_graph(head + body)


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(-(2**63), 2**64 - 1),
            st.floats(),
            st.text(),
            st.sampled_from(list(DTYPES.values())),
        ),
        lambda inner: st.lists(inner, max_size=4),
        max_leaves=8,
    )
)
def test_attributes_read_back_exactly(value: object) -> None:
    from tessera.ir.parser import _Line, _Parser

    line = _Line(attribute_text(value), 1)
    found = _Parser("", {})._attribute(line, 0)
    assert attributes_key({"a": found}) == attributes_key({"a": value}) and line.done


def test_values_that_have_no_text() -> None:
    x = Node("input", (), {"name": "x"}, (TensorType(f32, ()),)).results[0]
    for value, message in (
        (np.float32(1.0), "an attribute cannot be a numpy.float32"),
        (2**64, "does not fit 64 bits"),
        ({}, "cannot be a builtins.dict"),
    ):
        bad = Node("neg", (x,), {"value": value}, (TensorType(f32, ()),), Location("m.py", 3)).results[0]
        with pytest.raises(GraphError, match=rf"neg: .*{re.escape(message)}(.|\n)*at m.py:3"):
            print_graph(Graph({"y": bad}))
    nested: object = 1
    for _ in range(17):
        nested = [nested]
    with pytest.raises(GraphError, match="nested more than 16 deep"):
        attribute_text(nested)


def statements(*lines: str, dims: str = "") -> str:
    return "\n".join(
        [
            "tessera.graph 1",
            'graph "g" {',
            *([dims] if dims else []),
            '%0 = input {name = "x"} : f32[2, 3]',
            *lines,
            "}",
        ]
    )


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", GraphError, "line 1: expected 'tessera.graph' but found the end of the text"),
        ("hello", GraphError, "line 1, column 1: expected 'tessera.graph' but found 'hello'"),
        ("tessera.graph 2\n", VersionError, "version 2; this reader knows versions up to 1"),
        ("tessera.graph 0\n", GraphError, "0 is not a version"),
        ("tessera.graph x\n", GraphError, "column 15: expected the version of the text form but found 'x'"),
        ("tessera.graph 1\n", GraphError, "expected 'graph' but found the end of the text"),
        (
            "tessera.graph 1\ngraph main {\n",
            GraphError,
            "line 2, column 7: expected the graph's name, a string but found 'main'",
        ),
        ('tessera.graph 1\ngraph "g" {\n', GraphError, "line 3: expected '}' but found the end of the text"),
        (
            'tessera.graph 1\ngraph "g" {\n}\nmore',
            GraphError,
            "line 4, column 1: expected the end of the text but found 'more'",
        ),
        (
            statements("frobnicate"),
            GraphError,
            "expected '%', 'dim', 'mesh', 'output', 'update' or '}' but found 'frobnicate'",
        ),
        (statements("%1 = exp(%7) : f32[2, 3]"), GraphError, "line 4, column 10: %7 is used but not defined above"),
        (statements("%1 = exp(%1) : f32[2, 3]"), GraphError, "%1 is used but not defined above"),
        (statements("%0 = exp(%0) : f32[2, 3]"), GraphError, "line 4, column 1: %0 is defined twice"),
        (statements("%1, %1 = exp(%0) : f32[2, 3]"), GraphError, "%1 is defined twice"),
        (statements("%1 exp(%0) : f32[2, 3]"), GraphError, "line 4, column 4: expected '=' but found 'exp'"),
        (statements("%1 = exp(%0 : f32[2, 3]"), GraphError, "column 13: expected ',' but found ':'"),
        (statements("%1 = exp(%0)"), GraphError, "column 13: expected ':' but found the end of the line"),
        (
            statements("%1 = exp(%0) : "),
            GraphError,
            r"expected a type such as f32\[2, 3\] but found the end of the line",
        ),
        (statements("%1 = exp(%0) : f32[2, 3] extra"), GraphError, "expected the end of the line but found 'extra'"),
        (statements("%1 = exp(%0) : f33[2, 3]"), GraphError, "unknown dtype 'f33'"),
        (statements("%1 = exp(%0) : f32[2, -3]"), GraphError, "the size -3 is negative"),
        (statements("%1 = exp(%0) : f32[2, Q]"), GraphError, "unknown symbol 'Q'"),
        (
            statements("%1 = exp(%0) : f32[3, 2]"),
            GraphError,
            r"exp: the stated type is f32\[3, 2\] but the operator gives f32\[2, 3\]",
        ),
        (statements("%1, %2 = exp(%0) : f32[2, 3]"), GraphError, "2 values are defined but 1 types are given"),
        (statements("%1, %2 = exp(%0) : (f32[2, 3], f32[])"), GraphError, "the stated type is"),
        (statements("%1 = exp(%0, %0) : f32[2, 3]"), GraphError, r"line 4, column 6: \[exp\] takes 1 operand"),
        (statements("%1 = sum(%0) : f32[]"), GraphError, "sum: the operands or attributes do not fit the operator"),
        (statements('%1 = sum(%0) {axes = "x", keepdims = 3} : f32[]'), GraphError, "line 4, column 6"),
        (statements("%1 = nope(%0) : f32[2, 3]"), NameMissingError, "line 4, column 6: unknown operator 'nope'"),
        (statements("%1 = exp(%0) {a = 1, a = 2} : f32[2, 3]"), GraphError, "the attribute 'a' is given twice"),
        (
            statements("%1 = exp(%0) {a = maybe} : f32[2, 3]"),
            GraphError,
            "'maybe' is neither true, false, none nor a dtype",
        ),
        (
            statements("%1 = exp(%0) {a = 1.2.3} : f32[2, 3]"),
            GraphError,
            "expected an attribute value but found '1.2.3'",
        ),
        (statements("%1 = exp(%0) {a = 99999999999999999999} : f32[2, 3]"), GraphError, "does not fit 64 bits"),
        (statements("%1 = exp(%0) {a = " + "[" * 99 + "} : f32[2, 3]"), GraphError, "nested more than 16 deep"),
        (statements("%1 = exp(%0) {a = <1 +>} : f32[2, 3]"), GraphError, "is missing at the end"),
        (
            statements("%1 = exp(%0) {a = <" + "1+" * 2000 + "1>} : f32[2, 3]"),
            GraphError,
            "the dimension's text is too long",
        ),
        (statements('%1 = exp(%0) {a = "\\q"} : f32[2, 3]'), GraphError, "expected a string"),
        (statements('%1 = exp(%0) : f32[2, 3] at "m.py"'), GraphError, "expected ':' but found the end of the line"),
        (
            statements("%1 = input : f32[]"),
            GraphError,
            "input takes no operands, has one result and the attributes name",
        ),
        (statements("%1 = input {name = 3} : f32[]"), GraphError, "input: name must be a string"),
        (statements('%1 = input {name = "x"} : f32[]'), GraphError, "there are two of input 'x'"),
        (statements('%1 = param {name = "w"} : f32[]'), GraphError, "the attributes name, trainable"),
        (statements('%1 = param {name = "w", trainable = 1} : f32[]'), GraphError, "trainable true or false"),
        (statements("update %0 = %0"), GraphError, "the target must be a param, but it is the result of input"),
        (
            statements('%1 = param {name = "w", trainable = true} : f32[]', "update %1 = %0"),
            GraphError,
            r"the parameter has type f32\[\] but the new value has type f32\[2, 3\]",
        ),
        (
            statements('%1 = param {name = "w", trainable = true} : f32[]', "update %1 = %1", "update %1 = %1"),
            GraphError,
            "the parameter 'w' is updated twice",
        ),
        (
            statements('output "a" = %0', 'output "a" = %0'),
            GraphError,
            "line 5, column 8: the output 'a' is given twice",
        ),
        (statements(dims="dim B in [4, 2] multiple_of 1"), GraphError, "line 3, column 5: dim B: min=4, max=2"),
        (statements(dims="dim B in [1, 2] multiple_of 0"), GraphError, "multiple_of=0"),
        (statements(dims="dim B in [1, 2]"), GraphError, "expected 'multiple_of' but found the end of the line"),
        (
            statements("dim B in [1, 2] multiple_of 1", dims="dim B in [1, 2] multiple_of 1"),
            GraphError,
            "declared twice",
        ),
    ],
)
def test_malformed_text(text: str, error: type[TesseraError], message: str) -> None:
    with pytest.raises(error, match=message):
        parse_graph(text)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_mutated_text_gives_typed_errors_only(data: st.DataObject) -> None:
    text = EXAMPLE
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        length = data.draw(st.integers(0, 12))
        piece = data.draw(
            st.one_of(
                st.text(max_size=6),
                st.sampled_from(
                    [
                        "%0",
                        "%99",
                        "(",
                        ")",
                        "[",
                        "]",
                        "{",
                        "}",
                        "<B>",
                        "<",
                        "-1",
                        "1e999",
                        "nan",
                        '"',
                        "\\u12",
                        "f32[]",
                        "\n",
                        " = ",
                        "max(",
                        "//0",
                        "input",
                        "sum(%4)",
                        "9" * 30,
                        "update %2 = %8\n",
                    ]
                ),
                st.builds(lambda a, b: EXAMPLE[a : a + b], st.integers(0, len(EXAMPLE)), st.integers(0, 60)),
            )
        )
        text = text[:start] + piece + text[start + length :]
    try:
        graph = parse_graph(text)
    except TesseraError as error:
        assert re.match(r"line \d+", str(error))
    else:
        assert str(parse_graph(str(graph))) == str(graph)


def test_deep_graphs_print_and_parse() -> None:
    value: Value = op.tensor((), dtype="f32", name="x")
    for _ in range(5000):
        value = build("neg", value)
    text = str(Graph({"y": value}))
    assert str(parse_graph(text)) == text
