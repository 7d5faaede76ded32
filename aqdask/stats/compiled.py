"""Functions compiled to machine code, with NaN and the order of sums as they are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit
from numba.core import event

from aqdask import compilation


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a function, and keeps the result where a folder can be written.

    ``options`` are those of `numba.njit`. The folder is ``NUMBA_CACHE_DIR``, the ``__pycache__`` beside the
    module, or numba's in the user's cache.
    """
    common: dict[str, Any] = {"nogil": True, "error_model": "numpy"} | options

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return njit(cache=True, **common)(function)
        except RuntimeError as error:  # numba has no other class for it
            if "cannot cache function" not in str(error):
                raise
            _announcement.text = compilation.EVERY_TIME
            return njit(**common)(function)

    return decorate


class Announcement(event.Listener):
    """Listener of numba that tells once a process that functions of this package are compiled, not loaded."""

    text, _told = compilation.ONCE, False

    def on_start(self, event: event.Event) -> None:
        """See `numba.core.event.Listener`."""
        name = event.data["dispatcher"].py_func.__module__
        if not self._told and name.partition(".")[0] == "aqdask":
            self._told = True
            is_warning = self.text.startswith("warning: ")
            (compilation.log.warning if is_warning else compilation.log.info)(self.text)

    def on_end(self, event: event.Event) -> None:
        """See `numba.core.event.Listener`."""


_announcement = Announcement()
event.register("numba:compile", _announcement)
exact = kernel()
