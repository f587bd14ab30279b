"""What a kernel takes of a card that is not there, and its length, by the compiler's report."""

import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple


class Kernel(NamedTuple):
    """A kernel as it was compiled."""

    name: str
    capability: int
    """80 for an A100, 90 for an H100."""
    num_warps: int
    registers: int
    """Of a thread."""
    stack: int
    """Bytes of a thread that did not fit into registers."""
    shared: int
    """Bytes of shared memory of a program."""
    n_instructions: int
    loop: int
    """Instructions of the longest loop, which each thread runs per block."""
    in_tf32: bool
    """Whether factors in fp32 are rounded to TF32."""

    @property
    def occupancy(self) -> float:
        """Return the share of a multiprocessor's warps that can be resident."""
        limit = _LIMITS[self.capability]
        by_registers = limit.registers // (-(-self.registers // 8) * 8 * 32 * self.num_warps)
        by_shared = limit.shared // (self.shared + _RESERVED)
        n_programs = min(by_registers, by_shared, limit.warps // self.num_warps)
        return n_programs * self.num_warps / limit.warps


class _Limit(NamedTuple):
    """Limits of a multiprocessor (CUDA C++ Programming Guide, "Compute Capabilities")."""

    registers: int
    shared: int
    warps: int


_LIMITS = {80: _Limit(65_536, 164 << 10, 64), 90: _Limit(65_536, 228 << 10, 64)}
#: Shared memory that the driver takes of each program.
_RESERVED = 1 << 10
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/")


def kernel_of(binary: Any, *, name: str, capability: int, num_warps: int) -> Kernel:
    """Return what became of a kernel that `triton.compile` compiled."""
    cubin, shared = binary.asm["cubin"], binary.metadata.shared
    in_tf32 = "tf32" in binary.asm["ptx"]
    registers, stack, *lengths = _taken(cubin)
    return Kernel(name, capability, num_warps, registers, stack, shared, *lengths, in_tf32)


@cache
def _taken(cubin: bytes) -> tuple[int, int, int, int]:
    """Return registers, stack, instructions and those of the longest loop."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _said("cuobjdump", "-res-usage", file.name)
        code = _said("nvdisasm", "-c", file.name)
    registers, stack = (int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK"))  # type: ignore[index]
    n_instructions, loops, labels = 0, [0], {}
    for line in code.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = n_instructions
        if _INSTRUCTION.search(line):
            n_instructions += 1
            jump = re.search(r"BRA.*`\((\.L_x_\d+)\)", line)
            if jump and jump[1] in labels:
                loops.append(n_instructions - labels[jump[1]])
    return registers, stack, n_instructions, max(loops)


def _said(program: str, *arguments: str) -> str:
    import triton

    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    command = [folder / program, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
