"""The kinds of stages, one file each: contract, reference, and its row of the table."""

from __future__ import annotations

from . import block, down, group, head, tail, u_tail, up
from .kind import Kind, Operand

KINDS = {
    kind.name: kind
    for kind in (
        *(head.KIND, block.KIND, group.KIND, group.LAST, tail.KIND),
        *(down.KIND, up.KIND, u_tail.KIND),
    )
}
"""Every kind of stage by its name."""

__all__ = ["KINDS", "Kind", "Operand"]
