"""Faults for one process; Python imports this by itself where its folder is on PYTHONPATH.

``AQDASK_FAULT="KIND PART [FUNCTION]"`` strikes whenever a file is opened whose path holds PART, with FUNCTION
on the stack where one is named. Kinds: ``EIO`` and every other errno, ``sleep=SECONDS``, ``memory=MIB``
(taken and kept), ``SEGV`` (the process dies), ``replace`` (PATH.new takes the
place of PATH just before it is opened).
``AQDASK_CLOCK=SECONDS`` shifts the clock of the process, ``AQDASK_HIDDEN=1`` hides aqdask from it,
``AQDASK_NO_FLOCK=1`` lets flock fail as on NFS without locks.
The file that ``AQDASK_FAULT_PENDING`` names is removed when the fault first strikes; one that is left was
never hit.
"""

import contextlib
import errno
import os
import signal
import sys
import time

held: list[bytes] = []


def is_below(function: str) -> bool:
    """Tell whether a function of this name is being executed in this thread."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != function:
        frame = frame.f_back
    return frame is not None


def strike(kind: str, path: str) -> None:
    """Let the fault happen."""
    name, _, seconds = kind.partition("=")
    if name != "replace" or os.path.exists(f"{path}.new"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.environ.get("AQDASK_FAULT_PENDING", ""))
    if name == "sleep":
        time.sleep(float(seconds))
    elif name == "memory":
        held.append(b"1" * (int(seconds) << 20))
        time.sleep(5)  # batch systems look every few seconds
    elif name == "SEGV":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif name == "replace" and os.path.exists(f"{path}.new"):
        os.replace(f"{path}.new", path)
    elif name != "replace":
        number = getattr(errno, name)
        raise OSError(number, os.strerror(number), path)


def install(kind: str, part: str, function: str = "") -> None:
    """Watch all files that this process opens, by Python's own audit events."""

    def look(event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            path = os.fsdecode(arguments[0])
            if part in path and not path.endswith(".new") and (not function or is_below(function)):
                strike(kind, path)

    sys.addaudithook(look)


class Hidden:
    """Finder that finds no aqdask."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Raise for aqdask and its modules."""
        if name.partition(".")[0] == "aqdask":
            raise ModuleNotFoundError(name)


def shift_clock(seconds: float) -> None:
    """Let this process believe that it is another time."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 1e9)


def refuse_flock(event: str, arguments: tuple) -> None:
    """Let flock fail."""
    if event == "fcntl.flock":
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


if "AQDASK_CLOCK" in os.environ:
    shift_clock(float(os.environ["AQDASK_CLOCK"]))
if "AQDASK_HIDDEN" in os.environ:
    sys.meta_path.insert(0, Hidden())
if "AQDASK_NO_FLOCK" in os.environ:
    sys.addaudithook(refuse_flock)
if "AQDASK_FAULT" in os.environ:
    install(*os.environ["AQDASK_FAULT"].split())
