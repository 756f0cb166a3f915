"""`python confine.py UNIT COMMAND ...`: run COMMAND under the restrictions of the unit.

Applies the part of the hardening that can break a program at run time and needs no systemd: the system call filter,
no new privileges, no memory that is both written and executed. Exits 77 where the kernel does not support it.
"""

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

_NO_NEW_PRIVS, _MDWE = 38, 65
_ALLOW, _EPERM = 0x7FFF0000, 0x00050001
_REFUSED = 77


def calls(word: str) -> set[str]:
    """The system calls of a word of SystemCallFilter=; a group is expanded."""
    if not word.startswith("@"):
        return {word}
    command = ["systemd-analyze", "--no-pager", "syscall-filter", word]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    return set().union(*(calls(line.strip()) for line in said if line.strip() and "#" not in line))


def allowed(unit: str) -> set[str]:
    found = calls("@default")  # systemd always adds it
    for value in re.findall(r"^SystemCallFilter=(.*)$", unit, re.MULTILINE):
        listed = set().union(*map(calls, value.lstrip("~").split()))
        found = found - listed if value.startswith("~") else found | listed
    return found


def main() -> None:
    unit, command = Path(sys.argv[1]).read_text(), sys.argv[2:]
    library, libc = ctypes.CDLL("libseccomp.so.2"), ctypes.CDLL(None)
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(_EPERM))
    for name in allowed(unit):
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0 and library.seccomp_rule_add(context, _ALLOW, number, 0):
            sys.exit(f"no rule for {name}")
    if "\nMemoryDenyWriteExecute=true\n" in unit:
        libc.prctl(_MDWE, 1, 0, 0, 0)  # since Linux 6.3; on older kernels systemd's own filter does it
    if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) or library.seccomp_load(context):
        sys.exit(_REFUSED)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
