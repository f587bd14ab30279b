"""Processes in which Triton interprets, or compiles for cards that are not there.

It chooses between the two when it is imported, which therefore happens in them alone.
"""

import os
import warnings
from typing import Any

import torch
from kernel_report import Kernel, kernel_of
from torch import Tensor

NAMES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.int32: "i32",
    torch.int64: "i64",
}
#: Of an A100 and an H100.
CAPABILITIES = (80, 90)
#: Bytes of shared memory that a program may have on the smallest cards of those generations.
MAX_SHARED = 99 << 10


def interpret() -> None:
    """Make Triton interpret in this process; warnings are errors, as in pytest's own."""
    os.environ["TRITON_INTERPRET"] = "1"
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def widened(x: Any) -> Any:
        if x.dtype.scalar != tl.bfloat16:
            return x
        return TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return interpreted(self, widened(a), widened(b), *rest)

    def cast_impl(self: Any, x: Any, target: Any) -> Any:
        if x.dtype.scalar != tl.float32 or target.scalar != tl.bfloat16:
            return interpreted_cast(self, x, target)
        rounded = torch.from_numpy(np.array(x.data)).bfloat16().view(torch.int16).numpy()
        return TensorHandle(rounded.view(np.uint16), tl.bfloat16)

    # Of bf16 it holds the bits as integers, and multiplies those; it does not round, but cuts off.
    interpreted, InterpreterBuilder.create_dot = InterpreterBuilder.create_dot, dot
    interpreted_cast, InterpreterBuilder.cast_impl = InterpreterBuilder.cast_impl, cast_impl
    warnings.simplefilter("error")


def compile_only() -> None:
    """Let a launch in this process compile the kernel for its arguments, and run nothing.

    What has not changed since comes from Triton's cache.
    """
    os.environ["TRITON_INTERPRET"] = "0"
    from triton.runtime import JITFunction

    JITFunction.run = compile_launch


def compile_launch(
    kernel: Any,
    *args: Any,
    grid: Any,
    warmup: bool,
    num_warps: int = 4,
    num_stages: int = 3,
    **constants: Any,
) -> list[Kernel]:
    """Compile as Triton does at a launch: by arguments' types, and what is known of their values.

    Returns what became of the kernel for each of `CAPABILITIES`.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    given = dict(zip(kernel.arg_names, args, strict=False))
    types = {name: type_of(value) for name, value in given.items()}
    constants |= {name: value for name, value in given.items() if types[name] == "constexpr"}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, (name, value) in enumerate(given.items())
        if types[name][0] == "*" or (types[name] == "i32" and value % 16 == 0)
    }
    types |= dict.fromkeys(constants, "constexpr")
    name = f"{kernel.__module__.rpartition('.')[2]}.{kernel.__name__}"
    kernels = []
    for capability in CAPABILITIES:
        binary = triton.compile(
            ASTSource(kernel, types, constants, aligned),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": num_warps, "num_stages": num_stages},
        )
        assert binary.asm["cubin"]
        assert binary.metadata.shared <= MAX_SHARED
        kernels.append(kernel_of(binary, name=name, capability=capability, num_warps=num_warps))
    return kernels


def type_of(value: Any) -> str:
    """Return the type of an argument, as Triton calls it; None and 1 are known when compiling."""
    if value is None or (isinstance(value, int) and value == 1):
        return "constexpr"
    if isinstance(value, Tensor):
        return f"*{NAMES[value.dtype]}"
    return "fp32" if isinstance(value, float) else "i32"
