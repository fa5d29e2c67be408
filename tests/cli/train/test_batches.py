"""Batches: their order depends only on the seed and the epoch."""

from tinkex_sync.cli.train.batches import Batches


def test_every_epoch_has_all_examples_in_an_order_of_its_own():
    batches = Batches(10, 4, seed=1)
    assert batches.per_epoch == 3
    epochs = [[batches.indices(3 * epoch + index) for index in range(3)] for epoch in range(3)]
    assert [len(batch) for batch in epochs[0]] == [4, 4, 2]
    orders = [sum(epoch, []) for epoch in epochs]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert Batches(10, 4, seed=1).indices(7) == epochs[2][1], "the order depends on earlier steps"
    assert Batches(10, 4, seed=2).indices(0) != epochs[0][0]
    assert orders[0] == [2, 6, 8, 5, 4, 3, 0, 9, 7, 1], "the order depends on the Python version"
