"""How the indirection table is divided anew."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neatstack.control.pages import BUCKETS
from neatstack.control.steering import rebalance

slots = st.sets(st.integers(0, 15), min_size=1)


def after(owners: list[int], moves: dict[int, int]) -> list[int]:
    return [moves.get(bucket, owner) for bucket, owner in enumerate(owners)]


@given(st.lists(slots, min_size=2, max_size=6))
def test_shares_are_even_and_no_bucket_moves_without_need(course: list[set[int]]) -> None:
    owners = [min(course[0])] * BUCKETS
    for active in course:
        moves = rebalance(owners, active)
        before = {slot: owners.count(slot) for slot in active}
        table = after(owners, moves)
        shares = {slot: table.count(slot) for slot in active}
        assert sum(shares.values()) == BUCKETS and max(shares.values()) - min(shares.values()) <= 1
        assert all(owners[bucket] != new for bucket, new in moves.items())
        assert len(moves) == sum(max(0, shares[slot] - before[slot]) for slot in active)
        assert rebalance(table, active) == {}
        owners = table


def test_neighbours_go_to_different_replicas() -> None:
    table = after([0] * BUCKETS, rebalance([0] * BUCKETS, range(4)))
    for at in range(0, BUCKETS - 16, 16):
        assert set(table[at : at + 16]) == {0, 1, 2, 3}


@pytest.mark.parametrize("replicas", [2, 3, 4, 5, 8])
def test_equal_steps_through_the_table_come_to_all(replicas: int) -> None:
    """As consecutive ports do, in steps of any number of buckets but those that come back to the same few."""
    table = after([0] * BUCKETS, rebalance([0] * BUCKETS, range(replicas)))
    for step in (n for n in range(1, BUCKETS) if n % 8):
        for start in range(0, BUCKETS, 17):
            owners = [table[(start + n * step) % BUCKETS] for n in range(12 * replicas)]
            assert max(map(owners.count, range(replicas))) <= 11 * replicas
            assert len(set(owners)) > replicas // 2
