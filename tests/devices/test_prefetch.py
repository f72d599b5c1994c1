"""Transfers run ahead of the batch in use, in order."""

from cv_jax.devices.prefetch import on_devices


def test_batches_stay_in_order_and_at_most_two_wait():
    placed, closed = [], []

    def source():
        try:
            yield from range(6)
        finally:
            closed.append(True)

    def place(batch):
        placed.append(batch)
        return -batch

    batches = on_devices(source(), place, ahead=2)
    for step in range(6):
        assert next(batches) == -step
        assert placed == list(range(min(step + 3, 6)))
    assert list(batches) == []
    assert closed


def test_the_source_is_closed_when_the_consumer_stops():
    closed = []

    def source():
        try:
            yield from range(100)
        finally:
            closed.append(True)

    batches = on_devices(source(), lambda batch: batch)
    next(batches)
    batches.close()
    assert closed
