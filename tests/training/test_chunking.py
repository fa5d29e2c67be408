"""Where a batch is divided: order, limits, lazy reading."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from tinkex_sync.training.chunking import plan

SIZES = st.lists(st.integers(0, 12), max_size=60)


@settings(deadline=None)
@given(SIZES, st.integers(1, 7), st.integers(1, 20))
def test_chunks_partition_the_items_within_the_limits(sizes, max_items, max_bytes) -> None:
    chunks = list(plan(sizes, max_items, max_bytes))
    assert [size for chunk in chunks for size in sizes[chunk.start : chunk.stop]] == sizes
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        inside = sizes[chunk.start : chunk.stop]
        assert chunk.estimated_bytes == sum(inside)
        assert 1 <= len(inside) <= max_items
        assert sum(inside) <= max_bytes or len(inside) == 1


@settings(deadline=None)
@given(SIZES, st.integers(1, 7), st.integers(1, 20))
def test_a_chunk_ends_only_where_one_more_would_not_fit(sizes, max_items, max_bytes) -> None:
    chunks = list(plan(sizes, max_items, max_bytes))
    for chunk, following in zip(chunks, chunks[1:]):
        full = chunk.stop - chunk.start == max_items
        assert full or chunk.estimated_bytes + sizes[following.start] > max_bytes


def test_sizes_are_read_one_item_ahead_of_the_chunk() -> None:
    read = []
    sizes = (read.append(size) or size for size in itertools.repeat(1))
    chunks = plan(sizes, max_items=3)
    assert next(chunks)[:3] == (0, 0, 3)
    assert len(read) == 4
    assert next(chunks)[:3] == (1, 3, 6)
    assert len(read) == 7


def test_an_empty_batch_has_no_chunks() -> None:
    assert list(plan([])) == []


def test_the_default_limits_are_those_of_the_official_sdk() -> None:
    assert [chunk.stop for chunk in plan([1] * 1025)] == [1024, 1025]
    assert [chunk.stop for chunk in plan([2_500_000, 2_500_000, 1])] == [2, 3]
    assert [chunk.stop for chunk in plan([1, 6_000_000, 1])] == [1, 2, 3]
