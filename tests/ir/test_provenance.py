"""Where an operation comes from."""

from __future__ import annotations

import contextlib
import functools
import threading

from tessera import op
from tessera.ir.graph import Graph
from tessera.ir.provenance import Location, location, user_location


def line_of(function: object) -> int:
    return function.__code__.co_firstlineno + 1  # type: ignore[attr-defined]


def test_the_innermost_user_frame() -> None:
    def inner() -> Location | None:
        return user_location()

    assert inner() == Location(__file__, line_of(inner))


def test_composites_name_the_line_that_called_them() -> None:
    x = op.tensor((2,), dtype="f32", name="x")

    def build():
        return op.cross_entropy(op.softmax(x), op.tensor((), dtype="i64", name="i"))

    assert {n.loc for n in Graph({"y": build()}).nodes() if n.op != "input"} == {Location(__file__, line_of(build))}


def test_the_standard_library_in_between_is_passed_over() -> None:
    @contextlib.contextmanager
    def context():
        yield user_location()

    with context() as found:
        assert found == Location(__file__, context.__wrapped__.__code__.co_firstlineno + 2)
    assert str(functools.reduce(lambda a, _: a, [user_location(), 1])).startswith(__file__)


def test_location_context() -> None:
    with location(Location("model.py", 5)):
        x = op.tensor((), dtype="f32", name="x")
        with location(None):
            y = op.exp(x)
        z = op.exp(x)
    assert (x.node.loc, y.node.loc, z.node.loc) == (Location("model.py", 5), None, Location("model.py", 5))
    assert str(op.exp(x).node.loc).startswith(__file__)


def test_threads_have_their_own_location() -> None:
    found: list[Location | None] = []
    with location(Location("model.py", 5)):
        thread = threading.Thread(target=lambda: found.append(user_location()))
        thread.start()
        thread.join()
    assert found[0] is not None and found[0].file == __file__


def test_modules_of_the_interpreter_are_passed_over():
    scope = {"find": user_location}
    exec(compile("def between():\n    return find()", "<frozen runpy>", "exec"), scope)
    assert str(scope["between"]()).startswith(__file__)  # type: ignore[operator]
