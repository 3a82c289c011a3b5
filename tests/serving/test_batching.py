"""The queue of buckets: who shares one, and that nobody gets another's rows. ``draw`` says which samples it drew."""

import asyncio

import numpy as np
import pytest

from stmd_serving.batching import Batcher, BucketSettings
from stmd_serving.limits import Limits, RefusedError

SETTINGS = BucketSettings("model", (1.0, 0.0), 1, 1.0)
OTHER = BucketSettings("model", (1.0, 0.5, 0.0), 1, 1.0)


class Drawing:
    """Draws buckets when told to; a sample is its seed, index and label."""

    def __init__(self, at_once=1, limits=None, fails=False):
        self.buckets, self.gate, self.fails = [], asyncio.Event(), fails
        self.batcher = Batcher(self.draw, at_once, limits or Limits())

    async def draw(self, bucket):
        self.buckets.append(bucket)
        await self.gate.wait()
        if self.fails:
            raise ValueError("no network")
        labels = bucket.labels or (None,) * 16
        return np.array(
            [[bucket.seed, 16 * bucket.number + row, -1 if labels[row] is None else labels[row]] for row in range(16)],
            np.float32,
        )

    def ask(self, seed, first, labels, settings=SETTINGS):
        return asyncio.ensure_future(self.batcher.rows(settings, seed, first, labels))

    async def held(self):
        """A bucket at work, behind which all others wait."""
        busy = self.ask(99, 0, [None])
        await asyncio.sleep(0)
        return busy


def expected(seed, first, labels):
    return [[seed, first + i, -1 if label is None else label] for i, label in enumerate(labels)]


def ran(work):
    return asyncio.run(asyncio.wait_for(work, 20))


@pytest.mark.parametrize(("first", "n"), [(0, 16), (3, 5), (14, 4), (15, 50), (31, 1)])
def test_everybody_gets_the_samples_asked_for(first, n):
    async def work():
        drawing = Drawing(at_once=3)
        drawing.gate.set()
        x = await drawing.ask(7, first, [None] * n)
        assert x.tolist() == expected(7, first, [None] * n)

    ran(work())


def test_requests_of_one_seed_share_a_bucket_whatever_their_labels():
    async def work():
        drawing = Drawing()
        busy = await drawing.held()
        asks = [(0, [None] * 4), (4, [1, 2, 3]), (7, [5] * 9), (2, [None, None, 1])]
        found = [drawing.ask(5, first, labels) for first, labels in asks]
        await asyncio.sleep(0)
        drawing.gate.set()
        for (first, labels), x in zip(asks, await asyncio.gather(*found), strict=True):
            assert x.tolist() == expected(5, first, labels)
        await busy
        assert [bucket.seed for bucket in drawing.buckets] == [99, 5]
        assert drawing.batcher.filled == 1 + 16

    ran(work())


def test_what_cannot_share_does_not():
    async def work():
        drawing = Drawing()
        await drawing.held()
        asks = [
            (5, 0, [1], SETTINGS),
            (5, 0, [2], SETTINGS),
            (6, 1, [1], SETTINGS),
            (5, 1, [1], OTHER),
            (5, 16, [1], OTHER),
        ]
        found = [drawing.ask(*ask) for ask in asks]
        await asyncio.sleep(0)
        drawing.gate.set()
        for (seed, first, labels, _), x in zip(asks, await asyncio.gather(*found), strict=True):
            assert x.tolist() == expected(seed, first, labels)
        assert len(drawing.buckets) == 1 + len(asks)
        assert {bucket.settings for bucket in drawing.buckets} == {SETTINGS, OTHER}

    ran(work())


def test_samples_without_a_seed_are_side_by_side_and_nobody_elses():
    async def work():
        drawing, given = Drawing(), set()
        await drawing.held()

        async def ask(n):
            seed, first = drawing.batcher.next_samples(SETTINGS, n)
            keys = {(seed, first + i) for i in range(n)}
            assert not keys & given
            given.update(keys)
            return drawing.ask(seed, first, [None] * n)

        together = [await ask(4) for _ in range(4)]
        await asyncio.sleep(0)
        drawing.gate.set()
        await asyncio.gather(*together)
        assert len(drawing.buckets) == 2  # the held one, and one full
        for n in (3, 20, 1, 16, 5):
            await (await ask(n))
        assert len({seed for seed, _ in given}) == 1

    ran(work())


def test_the_next_samples_are_of_a_bucket_that_is_still_open():
    async def work():
        drawing = Drawing(at_once=9)
        seed, first = drawing.batcher.next_samples(SETTINGS, 4)
        going = drawing.ask(seed, first, [None] * 4)
        await asyncio.sleep(0)  # it is at work: nobody can join
        assert drawing.batcher.next_samples(SETTINGS, 4) == (seed, 16)
        drawing.gate.set()
        await going

    ran(work())


def test_seeds_end_with_their_last_sample():
    batcher = Drawing().batcher
    seed, first = batcher.next_samples(SETTINGS, 2**32 - 3)
    assert first == 0
    assert batcher.next_samples(SETTINGS, 3) == (seed, 2**32 - 3)
    other, first = batcher.next_samples(SETTINGS, 1)
    assert (other != seed, first) == (True, 0)


def test_a_full_queue_refuses_whole_requests_and_says_its_length():
    async def work():
        drawing = Drawing(limits=Limits(waiting=2))
        await drawing.held()
        waiting = drawing.ask(1, 0, [None] * 32)
        await asyncio.sleep(0)
        with pytest.raises(RefusedError, match="at most 2 wait") as refused:
            await drawing.ask(2, 0, [None])
        assert refused.value.status == 429
        shared = drawing.ask(1, 3, [None])  # no further bucket
        await asyncio.sleep(0)
        assert len(drawing.batcher.waiting) == 2
        drawing.gate.set()
        assert (await shared).tolist() == expected(1, 3, [None])
        await waiting

    ran(work())


def test_who_goes_away_leaves_the_queue_and_takes_nobody_along():
    async def work():
        drawing = Drawing()
        busy = await drawing.held()
        alone, one, two = drawing.ask(1, 0, [None]), drawing.ask(2, 0, [None]), drawing.ask(2, 1, [None])
        await asyncio.sleep(0)
        for gone in (alone, one, busy):
            gone.cancel()
        await asyncio.sleep(0)
        drawing.gate.set()
        assert (await two).tolist() == expected(2, 1, [None])
        assert [bucket.seed for bucket in drawing.buckets] == [99, 2]
        assert not drawing.batcher.waiting
        assert not drawing.batcher.open

    ran(work())


def test_what_fails_fails_for_all_who_wait_and_for_no_others():
    async def work():
        drawing = Drawing(fails=True)
        both = [drawing.ask(1, 0, [None]), drawing.ask(1, 1, [None] * 20)]
        drawing.gate.set()
        for failed in await asyncio.gather(*both, return_exceptions=True):
            assert isinstance(failed, ValueError)
        drawing.fails = False
        assert (await drawing.ask(1, 0, [None])).tolist() == expected(1, 0, [None])

    ran(work())
