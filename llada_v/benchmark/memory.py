"""Memory that is free, and the peak while something runs. Bytes; None where the machine does not tell."""

import ctypes
import sys
from pathlib import Path

import torch

GIB = 2**30
PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be taken on the device; on Linux the smaller of the machine's and the container's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu" or not sys.platform.startswith("linux"):
        return None
    free = proc_kilobytes(PROC / "meminfo", "MemAvailable")
    limit, used = CGROUP / "memory.max", CGROUP / "memory.current"
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


class PeakMemory:
    """The most memory in use since `reset`.

    On a GPU, torch's own allocations. On Linux, the resident memory of the whole process, libraries and weights
    included: the kernel keeps the peak and forgets it on request (`clear_refs` in proc(5)).
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.is_measured = device.type == "cuda"
        if device.type == "cpu" and sys.platform.startswith("linux"):
            self.is_measured = self.forget()

    def reset(self) -> None:
        """Start again from what is in use now; memory that only the allocator still holds is given back first."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self.is_measured:
            libc = ctypes.CDLL(None)
            if hasattr(libc, "malloc_trim"):
                libc.malloc_trim(0)
            self.forget()

    def read(self) -> int | None:
        """Bytes at the peak since `reset`; None where it cannot be measured."""
        if not self.is_measured:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return proc_kilobytes(PROC / "self" / "status", "VmHWM")

    def forget(self) -> bool:
        """Ask the kernel to forget the peak of this process; False where it does not allow that."""
        try:
            (PROC / "self" / "clear_refs").write_text("5")
        except OSError:
            return False
        return True


def proc_kilobytes(file: Path, name: str) -> int:
    """The bytes of a line "name:  123 kB"."""
    line = next(line for line in file.read_text().splitlines() if line.startswith(name + ":"))
    return 1024 * int(line.split()[1])
