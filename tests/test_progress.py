"""Lines of progress: what is done, and the time left once it is known."""

import time

import pytest

from cv_jax.progress import LINE_SECONDS, counted


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves: `clock[0]` in seconds."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_the_time_left_is_unknown_before_the_first_item_is_done(clock, capsys):
    """The first item of a pool of processes may take longer than the time between two lines."""

    def slow(items):
        for item in items:
            clock[0] += 20
            yield item

    class Loop(list):
        def __iter__(self):
            return slow(super().__iter__())

    assert LINE_SECONDS < 20
    assert list(counted(Loop("abcd"), "reading")) == list("abcd")
    assert capsys.readouterr().err.splitlines() == [
        "reading: 0 of 4, ? left",
        "reading: 1 of 4, 2:00 left",  # one in 40 s
        "reading: 2 of 4, 1:00 left",
        "reading: 3 of 4, 0:27 left",
    ]


def test_a_quick_loop_prints_nothing(clock, capsys):
    assert list(counted(range(3), "reading")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
