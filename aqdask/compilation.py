"""Message about the compilation of kernels, for those who listen; numba is not imported here."""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)
TOPIC = "aqdask-compilation"  # of the events by which Dask workers tell their clients
ONCE = "compiling kernels for this processor, once; about half a minute of a core"
EVERY_TIME = (
    "warning: compiling kernels for this processor, about half a minute of a core in every process and every "
    "time: neither the folder of the package nor the cache of this user can be written; set NUMBA_CACHE_DIR "
    "to a folder that can"
)


class Listener(logging.Handler):
    """Handler that passes the text of each message on to a function, until it is closed."""

    def __init__(self, say: Callable[[str], object]) -> None:
        super().__init__(logging.INFO)
        self._say = say
        log.addHandler(self)
        log.setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        self._say(record.getMessage())

    def close(self) -> None:
        """Stop listening."""
        log.removeHandler(self)
        super().close()
