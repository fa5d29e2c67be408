"""Listings in pages: no page is larger than allowed, and no item is requested twice."""

from types import SimpleNamespace

import pytest

from tinkex_sync.cli.paging import collect, count_text, hidden_count_text


class Listing:
    """A listing that records the requests for its pages."""

    def __init__(self, size, has_cursor=True):
        self.size, self.has_cursor, self.requests = size, has_cursor, []

    def fetch(self, limit, offset):
        self.requests.append((limit, offset))
        items = list(range(self.size))[offset : offset + limit]
        cursor = SimpleNamespace(total_count=self.size) if self.has_cursor else None
        return SimpleNamespace(items=items, cursor=cursor)


@pytest.mark.parametrize(
    ("size", "limit", "requests"),
    [
        (25, 7, [(7, 0)]),
        (25, 0, [(10, 0), (10, 10), (5, 20)]),
        (25, 15, [(10, 0), (5, 10)]),
        (3, 20, [(10, 0)]),
        (0, 0, [(10, 0)]),
    ],
)
def test_pages_are_requested_until_the_limit(size, limit, requests):
    listing = Listing(size)
    items, total = collect(listing.fetch, "items", limit, 10)
    assert items == list(range(min(size, limit) if limit else size))
    assert total == size
    assert listing.requests == requests


def test_a_response_without_a_cursor_is_the_whole_listing():
    assert collect(Listing(4, has_cursor=False).fetch, "items", 0, 10) == ([0, 1, 2, 3], 4)


def test_a_listing_that_shrinks_ends_the_requests():
    listing = Listing(25)

    def fetch(limit, offset):
        response = listing.fetch(limit, offset)
        listing.size = 12
        return response

    items, _ = collect(fetch, "items", 0, 10)
    assert items == list(range(12))


def test_titles_name_what_is_shown_and_what_is_not():
    assert [count_text(number, "run") for number in (0, 1, 2)] == ["No runs found", "1 run", "2 runs"]
    assert hidden_count_text(2, 2) == ""
    assert hidden_count_text(2, 5) == " (3 more not shown, use --limit to see more)"
