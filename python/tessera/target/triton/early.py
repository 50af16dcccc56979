"""Kernels that may be started before the kernel before them has ended: the device prepares them meanwhile.

The first thing that such a kernel does is to wait until the kernels before it have ended and what they wrote is
visible. It reads and writes nothing before that, so results do not depend on when it was started. What is hidden is the
time to start it: blocks are brought onto the multiprocessors when the last block of the kernel before has ended, and
not once the device has told so. (CUDA Programming Guide, "Programmatic Dependent Launch and Synchronization"; PTX ISA,
``griddepcontrol``.)

A kernel that only streams a matrix from memory goes further: it lets the next kernel be started as soon as all of its
own blocks have begun, and has the first part of its matrix brought into the second cache before it waits, so that
memory works while one kernel ends and the next begins. What a kernel before it writes is written in that cache too, so
that asking early is never wrong. Other kernels do not let the next one be started so early: blocks would come to the
multiprocessors that are free first, several to one, and others would have none.
"""

from __future__ import annotations

import re

FIRST = 90
"""The first compute capability that has it."""
_ORDER = "griddepcontrol.wait;"
_WAIT = f"\t{_ORDER}\n"
_BODY = re.compile(r"^\.visible \.entry .*?^\{\n(?:[ \t]*(?:\.[^;\n]*;)?\n)*", re.MULTILINE | re.DOTALL)
"""A kernel up to its first instruction: its head, the brace, declarations."""

_MEMORY = re.compile(
    r"\b(ld|st|red|atom)\.(global|shared)|\bcp\.async(?!\.bulk\.prefetch)|\bmbarrier\.|\b(ld|st)\.[bfsuv]"
)
"""Instructions that read or write memory; parameters are not meant."""


def has_early(architecture: int | str) -> bool:
    """Whether devices of an architecture (90, "sm_90a", "gfx942") have it."""
    if isinstance(architecture, int):
        return architecture >= FIRST
    digits = "".join(c for c in architecture if c.isdigit())
    return architecture.startswith("sm_") and int(digits) >= FIRST


def may_start_early(text: str) -> str:
    """The PTX of one kernel, which now waits for the kernels before it by itself, if it does not yet.

    ValueError if there is not one kernel, or if one that waits by itself reads or writes before that.
    """
    if _ORDER in text:
        body = text[text.index("\n{\n") :]
        if found := _MEMORY.search(body[: body.index(_ORDER)]):
            raise ValueError(f"a kernel with {found[0]} before it waits for those before it")
        return text
    changed, count = _BODY.subn(lambda head: head[0] + _WAIT, text)
    if count != 1:
        raise ValueError(f"PTX with {count} kernels, expected one")
    return changed
