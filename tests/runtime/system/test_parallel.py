"""Results of threads, in the order of the work."""

import threading

import pytest

from vitsd_runtime.system.parallel import map_in_order


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_keep_the_order_of_the_items(workers):
    first_may_end = threading.Event()

    def square(number):
        if workers > 1:
            if number == 0:
                assert first_may_end.wait(30)
            else:
                first_may_end.set()
        return number**2

    assert list(map_in_order(square, range(20), workers)) == [n**2 for n in range(20)]


def test_work_is_done_at_the_same_time():
    both = threading.Barrier(2, timeout=30)
    assert list(map_in_order(lambda _: both.wait() >= 0, range(4), 2)) == [True] * 4


@pytest.mark.parametrize("workers", [1, 3])
def test_endless_items_are_drawn_as_results_are_taken(workers):
    drawn = []

    def items():
        while True:
            drawn.append(len(drawn))
            yield drawn[-1]

    results = map_in_order(str, items(), workers)
    assert drawn == []
    for taken in range(1, 10):
        assert next(results) == str(taken - 1)
        assert len(drawn) <= taken + 2 * workers
    results.close()


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_comes_in_the_place_of_its_result(workers):
    results = map_in_order(lambda number: 12 // (3 - number), range(1000), workers)
    assert [next(results) for _ in range(3)] == [4, 6, 12]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_work_that_nobody_waits_for_is_dropped():
    started, go_on = [], threading.Event()

    def wait(number):
        started.append(number)
        if number > 0:
            go_on.wait(30)

    results = map_in_order(wait, range(100), 1 + 1)
    next(results)
    results.close()
    go_on.set()
    for thread in threading.enumerate():
        if thread.name.startswith("worker"):
            thread.join()
    assert len(started) <= 4
