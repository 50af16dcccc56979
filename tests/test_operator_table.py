"""Python and C++ have the same operators: names, parameters, order, defaults; docs/operators.md lists them."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("operators", ROOT / "tools" / "operators.py")
assert spec and spec.loader
table = importlib.util.module_from_spec(spec)
sys.modules["operators"] = table
spec.loader.exec_module(table)


def test_the_languages_agree():
    assert table.all_differences() == []


def test_the_page_is_fresh():
    assert table.PAGE.read_text() == table.page(), "docs/operators.md is stale: make docs"


def test_every_stated_exception_is_one():
    python, cpp = table.python_functions(), table.cpp_functions()
    assert all(n in python and n not in cpp for n in table.PYTHON_ONLY)
    assert all(n in cpp and n not in python for n in table.CPP_ONLY)
    for name in table.OTHER_SIGNATURE:
        assert table.difference(table.python_signature(python[name]), cpp[name].signature)


HEADER = """
namespace detail {
inline Tensor hidden(int x) { return {}; }
} // namespace detail
// A comment, with (brackets.
inline Tensor norm(const Operand &x, double ord = 2.0, const Axes &axis = std::nullopt,
                   bool keepdims = false) {
    return {};
}
"""


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (("", ""), []),
        (("ord = 2.0", "ord = 1.0"), ["norm: ord is 2 by default in Python, 1 in C++"]),
        (("keepdims = false", "keepdims"), ["norm: keepdims is False by default in Python, None in C++"]),
        (("&axis", "&axes"), ["norm: parameters x, ord=2, axis=None, keepdims=False in Python, "
                              "x, ord=2, axes=None, keepdims=False in C++"]),
        (("Tensor norm", "Tensor norms"), ["norm: not in C++", "norms: not in Python"]),
    ],
)
def test_a_difference_is_seen(change, found):
    header = HEADER.replace(*change) if change[0] else HEADER
    cpp = {name: f.signature for name, f in table.read_header(header)}
    python = {"norm": table.python_signature(table.python_functions()["norm"])}
    assert table.differences(python, cpp) == found
