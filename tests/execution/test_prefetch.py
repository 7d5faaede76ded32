"""Reading ahead: order, bounds, errors, and threads that hang."""

import subprocess
import sys
import threading
import time

import pytest

from aqdask.execution.prefetch import prefetched


def test_results_come_in_order_and_at_most_depth_ahead():
    begun, most = [], 0
    with prefetched(lambda n: begun.append(n) or n * n, range(20), 2) as results:
        for number, result in enumerate(results):
            assert result == number**2
            time.sleep(0.002)
            most = max(most, len(begun) - number - 1)
    assert begun == list(range(20))
    assert 1 <= most <= 3  # two ahead, and the one whose place was just given free


def test_an_error_is_raised_in_its_place_and_nothing_is_read_after_it():
    begun = []

    def read(number):
        begun.append(number)
        return 1 / (number - 2)

    with prefetched(read, range(9), 2) as results:
        assert [next(results), next(results)] == [-0.5, -1.0]
        with pytest.raises(ZeroDivisionError):
            next(results)
    assert begun == [0, 1, 2]


def test_leaving_early_ends_the_thread():
    before = threading.active_count()
    with prefetched(lambda n: n, range(1000), 3) as results:
        next(results)
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_a_read_that_hangs_does_not_keep_the_process():
    code = (
        "import threading\n"
        "from aqdask.execution.prefetch import prefetched\n"
        "with prefetched(lambda n: threading.Event().wait(), [1], 1):\n"
        "    print('left')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "left\n"
