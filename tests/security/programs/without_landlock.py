"""Run a program on a kernel that does not have Landlock, as far as it can tell.

    python3 without_landlock.py PROGRAM [ARGUMENT]…

A seccomp filter answers ENOSYS to the system calls of Landlock. Other programs with other privileges see it as well,
so this works without `no_new_privs` for root alone, and with it for everybody.
"""

import ctypes
import errno
import os
import struct
import sys

FIRST, LAST = 444, 446  # landlock_create_ruleset, landlock_add_rule, landlock_restrict_self on every machine
LOAD, AT_LEAST, ABOVE, RETURN = 0x20, 0x35, 0x25, 0x06
ALLOW, FAIL = 0x7FFF0000, 0x00050000
SET_NO_NEW_PRIVS, SET_SECCOMP, FILTER = 38, 22, 2

STEPS = (
    (LOAD, 0, 0, 0),
    (AT_LEAST, 0, 2, FIRST),
    (ABOVE, 1, 0, LAST),
    (RETURN, 0, 0, FAIL | errno.ENOSYS),
    (RETURN, 0, 0, ALLOW),
)


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


libc = ctypes.CDLL(None, use_errno=True)
program = Program(len(STEPS), b"".join(struct.pack("=HBBI", *step) for step in STEPS))
if os.geteuid() != 0:
    libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0)
if libc.prctl(SET_SECCOMP, FILTER, ctypes.byref(program), 0, 0) != 0:
    sys.exit(f"cannot filter system calls: {os.strerror(ctypes.get_errno())}")
os.execvp(sys.argv[1], sys.argv[1:])
