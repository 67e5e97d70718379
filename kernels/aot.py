"""Compiling Triton kernels for GPUs that are not here, and reading what they would use.

    resources(kernel, {"x": "*fp32", "n": "i32", "BLOCK": 64}, capability=90).spills == 0

A development tool: the tests hold every kernel to its limits with it. Needs Triton, no GPU and no driver, in a process
without TRITON_INTERPRET, which replaces the compiler.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

CAPABILITIES = (80, 86, 89, 90)  # A100; RTX 30; RTX 40, L4; H100


@dataclasses.dataclass(frozen=True)
class Resources:
    """What a program of a compiled kernel uses."""

    registers: int  # of a thread
    stack: int  # bytes of a thread; registers spill here
    local: int  # bytes of a thread, likewise
    shared: int  # bytes
    spills: int  # instructions that access the stack or local memory
    tensor_core: int  # matrix instructions

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in dataclasses.asdict(self).items())


def build(
    kernel: Any,
    arguments: dict[str, Any],
    *,
    capability: int,
    num_warps: int = 4,
    num_stages: int = 3,
    maxnreg: int | None = None,
) -> Any:
    """Compile a kernel; `.asm` of the result has every stage from "ttir" to "cubin".

    Args:
        kernel: a `triton.jit` function.
        arguments: for each parameter a type ("*fp32", "i32", "fp32"), a tuple of them, or None for an argument that is
            None; for constexpr parameters the value. Pointers are taken to be aligned to 16 bytes, as allocated tensors
            are.
        capability: compute capability, 80 for sm_80.
        num_warps, num_stages, maxnreg: as in a launch.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("TRITON_INTERPRET=1 replaces Triton's compiler: compile in a process without it")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature: dict[str, Any] = {}
    constants: dict[tuple[int, ...], Any] = {}
    aligned: dict[tuple[int, ...], list] = {}

    def describe(path: tuple[int, ...], given: Any, constant: bool = False) -> Any:
        if constant or given is None:
            constants[path] = given
            return "constexpr"
        if isinstance(given, tuple):
            return tuple(describe((*path, i), part) for i, part in enumerate(given))
        if given.startswith("*"):
            aligned[path] = [["tt.divisibility", 16]]
        return given

    for i, parameter in enumerate(kernel.params):
        signature[parameter.name] = describe((i,), arguments[parameter.name], parameter.is_constexpr)
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": num_warps, "num_stages": num_stages, "maxnreg": maxnreg}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def resources(kernel: Any, arguments: dict[str, Any], **launch: Any) -> Resources:
    """Compile a kernel and read its resources; arguments as in `build`."""
    compiled = build(kernel, arguments, **launch)
    return read(compiled.asm["cubin"], shared=compiled.metadata.shared)


def read(cubin: bytes, shared: int = 0) -> Resources:
    """Resources of the first kernel in a cubin; `shared` is what its launch asks for beside its static memory."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, code = (
            subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("--dump-resource-usage", "--dump-sass")
        )
    used = dict(re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", usage))
    return Resources(
        registers=int(used["REG"]),
        stack=int(used["STACK"]),
        local=int(used["LOCAL"]),
        shared=shared + int(used["SHARED"]),
        spills=len(re.findall(r"\b(?:LDL|STL)\b", code)),
        tensor_core=len(re.findall(r"\b(?:HMMA|DMMA|HGMMA)\b", code)),
    )
