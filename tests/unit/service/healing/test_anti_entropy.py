"""Anti-entropy: replicas that differ become equal without a read, by records and entries only; equal ones stay quiet
(R13, R32, R38)."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from reaping import compares, mourning_until, trees_are_right
from schedule import apart, catch, propose_and_die, seen_by
from world import World, name_of

from kvclient.wire import messages as m
from kvclient.wire.values import Ballot
from kvnode.config import Limits
from kvnode.core.merkle import Tree, item_of, position_of
from kvnode.core.record import EMPTY_IMAGE, Record
from kvnode.service.healing import anti_entropy, partners, trees
from kvnode.storage.engine import DamagedRow

LIMITS = Limits(repair_interval_s=5.0, tree_rebuild_s=1e6, tree_leaves_max=1 << 12, hint_bytes_max=0)
TREE_KINDS = {m.TREE_ROOTS, m.TREE_DIFFER, m.TREE_NODES, m.TREE_LIST, m.TREE_LACKS, m.RECORDS, m.RECORDED}


def healing(limits: Limits = LIMITS, nodes: int = 3, seed: int = 0) -> World:
    """Return a world whose nodes compare their trees."""
    world = World(nodes, seed, limits=limits)
    for host in world.hosts:
        host.node.healing.anti_entropy.start()
    world.run(0.2)
    return world


def behind(world: World, away: int, keys: int, *, strong: bool) -> None:
    """Write keys while a node is away; it comes back and hears nothing of them."""
    others = [index for index in range(len(world.hosts)) if index != away]
    for other in others:
        world.cut(away, other)
    for number in range(keys):
        at = others[number % len(others)]
        if strong:
            world.put(f"k{number}", b"new", at)
        else:
            world.write(f"k{number}", b"new", at)
        world.run()
    world.run(0.1)
    for other in others:
        world.mend(away, other)


def shown(world: World, index: int, key: str) -> tuple[bytes, bytes]:
    image = world.register(index, key).shown
    return image.committed.body, image.overlay


def differing(world: World, keys: int) -> list[str]:
    names = [f"k{number}" for number in range(keys)]
    return [key for key in names if len({shown(world, index, key) for index in range(len(world.hosts))}) > 1]


def check_trees(world: World) -> None:
    """Every tree is what the registers and rows of its node say."""
    for host in world.hosts:
        trees = host.node.healing.trees
        assert trees.is_ready
        assert not trees.drifted
        for partition in trees.partitions:
            prefix, fresh, after, is_last = partition.to_bytes(2, "big"), Tree(trees.bits), b"", False
            after = prefix
            while not is_last:
                rows, is_last = trees.slice(prefix, after, is_shown=False)
                for key, image in rows:
                    fresh.replace(position_of(key), 0, item_of(key, image))
                after = rows[-1][0] if rows else after
            tree = trees.get(trees.all_copies[0], partition)
            assert tree is not None
            assert (tree.root, tree.count, tree.leaves) == (fresh.root, fresh.count, fresh.leaves)


@pytest.mark.parametrize("strong", [False, True])
@pytest.mark.parametrize("away", [0, 1, 2])
def test_a_node_that_was_away_gets_everything_without_a_read(away: int, strong: bool) -> None:
    world = healing()
    behind(world, away, 40, strong=strong)
    assert len(differing(world, 40)) == 40
    world.run(20.0)
    assert differing(world, 40) == []
    check_trees(world)
    world.invariants()


def test_two_sides_exchange_what_each_has_alone() -> None:
    world = healing()
    world.cut(0, 2)
    world.cut(1, 2)
    for number in range(20):
        world.write(f"k{number}", b"left", 0)
        world.write(f"k{number + 20}", b"right", 2)
        world.write(f"k{number + 40}", b"left", 1)
        world.run(0.01)
        world.write(f"k{number + 40}", b"later", 2)
        world.run(0.01)
    world.mend(0, 2)
    world.mend(1, 2)
    world.run(20.0)
    assert differing(world, 60) == []
    assert all(shown(world, 0, f"k{number + 40}")[1].endswith(b"later") for number in range(20))
    check_trees(world)


def test_equal_replicas_cost_one_message_and_its_answer_per_pair() -> None:
    world = healing()
    behind(world, 2, 10, strong=True)
    world.run(20.0)
    seen: list[tuple[int, int, int]] = []

    def note(source: int, target: int, message: Any) -> bool:
        if message[0] in TREE_KINDS:
            seen.append((source, target, message[0]))
        return True

    world.on_post = note
    world.run(5.2)
    pairs = {(0, 1), (0, 2), (1, 2)}
    assert {(source, target) for source, target, kind in seen if kind == m.TREE_ROOTS} == pairs
    assert len(seen) == 2 * len(pairs), seen


def test_a_few_differences_among_many_keys_cost_a_few_messages() -> None:
    world = healing(replace(LIMITS, tree_leaves_max=1 << 16))
    for number in range(600):
        world.put(f"k{number}", b"old", number % 3)
    world.run(10.0)
    sent = [host.node.healing.jobs.sent_bytes for host in world.hosts]
    world.cut(0, 2)
    world.cut(1, 2)
    world.put("k7", b"new", 0)
    world.run(0.5)
    world.mend(0, 2)
    world.mend(1, 2)
    world.run(5.5)
    assert differing(world, 600) == []
    more = [host.node.healing.jobs.sent_bytes - before for host, before in zip(world.hosts, sent, strict=True)]
    assert sum(more) < 5000, more
    assert sum(host.node.healing.mending.repaired for host in world.hosts) == 1


def test_a_proposal_is_never_carried_to_another_replica() -> None:
    """R13, counterexample C9: copies of an unchosen proposal would count as votes for it."""
    world = healing()
    world.put("k0", b"old", 0)
    world.run(10.0)
    propose_and_die(world, 0, lambda: world.put("k0", b"dead", 0))
    world.hosts[0].node.upkeep.resolver.take = lambda cost: False  # it would decide the proposal
    world.hosts[0].node.healing.anti_entropy.start()
    carried = catch(world, m.RECORDS)
    world.run(30.0)
    assert world.register(0, "k0").image.accepted_ballot
    assert not any(world.register(index, "k0").image.accepted_ballot for index in (1, 2))
    assert carried.messages == []


def test_messages_that_get_lost_delay_and_break_nothing() -> None:
    world = healing()
    rng = random.Random(5)
    behind(world, 2, 40, strong=False)
    world.on_post = lambda source, target, message: message[0] not in TREE_KINDS or rng.random() < 0.8
    world.run(120.0)
    world.cut(0, 2)
    world.mend(0, 2)
    world.on_post = lambda source, target, message: True
    world.run(partners._RETRY_S_MAX + 400.0)
    assert differing(world, 40) == []
    check_trees(world)


def test_a_small_budget_makes_repair_slow_on_both_sides() -> None:
    world = healing(replace(LIMITS, repair_operations_per_s=10))
    behind(world, 2, 100, strong=False)
    world.run(4.0)
    assert len(differing(world, 100)) > 20
    world.run(40.0)
    assert differing(world, 100) == []


@pytest.mark.parametrize("seed", range(12))
def test_any_loss_of_writes_heals(seed: int) -> None:
    """Writes of both kinds, of which entries, marks and whole records get lost at random; deletes among them."""
    world = healing(seed=seed)
    rng = random.Random(seed)
    lossy = {m.ENTRY, m.COMMIT, m.MARKS, m.ACCEPT}
    world.on_post = lambda source, target, message: message[0] not in lossy or rng.random() < 0.6
    for _ in range(120):
        key, at = f"k{rng.randrange(25)}", rng.randrange(3)
        call = rng.choice((world.put, world.write))
        if rng.random() < 0.2:
            world.delete(key, at) if rng.random() < 0.5 else world.write(key, None, at)
        else:
            call(key, b"%d" % rng.randrange(1000), at)
        world.run(rng.random() * 0.05)
    world.run(6.0)
    world.on_post = lambda source, target, message: True
    world.run(60.0)
    open_keys = {
        key for key in differing(world, 25) if any(world.register(i, key).image.accepted_ballot for i in range(3))
    }
    assert set(differing(world, 25)) <= open_keys  # those the resolver must settle first (R32)
    check_trees(world)
    world.invariants()


def test_a_restarted_node_builds_its_trees_from_its_rows() -> None:
    world = healing()
    for number in range(30):
        (world.put if number % 2 else world.write)(f"k{number}", b"v", number % 3)
    world.run(5.0)
    world.crash(1)
    behind_keys = [f"k{number}" for number in range(10)]
    for key in behind_keys:
        world.write(key, b"newer", 0)
    world.run(1.0)
    world.restart(1)
    assert not world.hosts[1].node.healing.trees.is_ready
    world.hosts[1].node.healing.anti_entropy.start()
    world.run(30.0)
    assert differing(world, 30) == []
    check_trees(world)


def test_a_tree_that_is_built_while_keys_change_is_right() -> None:
    """Building reads slices; before, between and after them keys change, appear, and are on their way to disk."""
    rng = random.Random(3)
    world = World(3, limits=LIMITS)
    for number in range(400):
        world.write(f"k{number}", b"v", number % 3)
    world.run(1.0)
    for host in world.hosts:
        host.node.healing.anti_entropy.start()
    for step in range(300):
        key = f"k{rng.randrange(500)}"
        if step % 40 == 0:
            world.slow_disk(rng.randrange(3), rng.choice((0.0, 0.003)))
        (world.put if rng.random() < 0.5 else world.write)(key, b"n%d" % step, rng.randrange(3))
        world.run(0.0005)
    for index in range(3):
        world.disk_delays_s.pop(index, None)
    world.run(5.0)
    check_trees(world)


def test_a_slice_ends_after_so_many_bytes_wherever_in_a_row_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that was killed holds most values as accepted only; a window may be longer than its value."""
    monkeypatch.setattr(trees, "SLICE_BYTES", 1000)
    world = healing()
    engine, prefix, ballot = world.hosts[0].engine, b"\0\1", Ballot(bytes(28))
    large = Record(b"v" * 200, b"w" * 200)
    accepted = EMPTY_IMAGE._replace(accepted_ballot=ballot, accepted=large)
    committed = EMPTY_IMAGE._replace(committed_ballot=ballot, committed=large)
    for number in range(10):
        row = accepted if number < 5 else committed
        engine.put(prefix + b"default\0%06d" % number, row, sync=True, then=None)
    world.run()
    own, after, slices, is_last = world.hosts[0].node.healing.trees, prefix, [], False
    while not is_last:
        rows, is_last = own.slice(prefix, after, is_shown=False)
        after = rows[-1][0]
        slices.append(len(rows))
    assert slices == [3, 3, 3, 1]


def test_building_anew_finds_a_tree_that_is_not_what_the_rows_say() -> None:
    world = healing(replace(LIMITS, tree_rebuild_s=16.0))
    world.put("k0", b"v", 0)
    world.run(20.0)
    trees = world.hosts[0].node.healing.trees
    assert trees.drifted == 0
    tree = trees.get(3, int.from_bytes(world.row_key("k0")[:2], "big"))
    assert tree is not None
    tree.replace(123, 0, 456)
    world.run(20.0)
    assert trees.drifted == 1
    check_trees_except_drift = trees.get(3, int.from_bytes(world.row_key("k0")[:2], "big"))
    assert check_trees_except_drift is not None
    assert check_trees_except_drift.count == 1


def test_a_damaged_row_is_not_served_to_another_replica() -> None:
    """R46: reading it stops the node, before anything of it leaves."""
    world = healing()
    for number in range(10):
        world.put(f"k{number}", b"old", 0)
    world.run(10.0)
    world.crash(2)
    world.write("k3", b"new", 0)
    world.run()
    world.restart(2)
    engine = world.hosts[2].engine
    key = world.row_key("k3")
    engine.disk.rows[key] = engine.disk.rows[key][:-1] + b"?"
    with pytest.raises(DamagedRow):
        list(world.hosts[2].node.healing.trees.build_all())


def test_a_settled_tombstone_is_not_sent_and_not_asked_for() -> None:
    """R38: or a purge that has come further at one replica than at the other would never end."""
    world = healing()
    world.put("k0", b"v", 0)
    world.run(1.0)
    world.delete("k0", 0)
    world.run(1.0)
    node = world.hosts[2].node
    register = world.register(2, "k0")
    before = register.image
    register.image = register.shown = before._replace(settled=True)
    node.registers.on_change(world.row_key("k0"), before, register.image)
    world.run(30.0)
    assert register.image.settled
    assert sum(host.node.healing.mending.repaired for host in world.hosts) == 0
    assert node.healing.mending.sent == 0


@pytest.mark.parametrize("is_strong", [True, False])
def test_what_was_written_over_a_settled_tombstone_is_fetched(is_strong: bool) -> None:
    """R32, R38: the others have removed the tombstone, and the key is written again, while a node that still has it is
    away.  Nothing is owed to that node any more."""
    world, a, b, c, removals = mourning_until(m.REMOVE)
    assert b == 2, "of two nodes the first asks: this must be the one that is asked"
    compares(world)
    for host in world.hosts:
        host.node.handoff.is_on = False
    removals.pour(target=c)
    world.run()
    with apart(world, b):
        call = world.put("k", b"new", c) if is_strong else world.write("k", b"new", c)
        world.run(0.2)
        assert call.kind == m.APPLIED
    assert world.register(b, "k").image.settled
    for index in (a, c):
        world.hosts[index].node.healing.anti_entropy.repair("")
    world.run(20.0)
    assert seen_by(world, b) == b"new"
    assert trees_are_right(world)


def test_a_node_that_another_repairs_is_not_taken_for_one_that_cannot_take_writes() -> None:
    """R32: it refuses a second comparison; what it is sent meanwhile is not owed to it, nor are hints held back."""
    world = healing(replace(LIMITS, hint_bytes_max=1 << 20))
    tree = world.hosts[2].node.healing.trees.get(3, 0)
    assert tree is not None
    tree.replace(1, 0, 1)  # a difference that no record mends: both others meet it at the same time
    refused = counted(world, m.REFUSED)
    for _ in range(200):
        world.run(0.05)
        assert not any(host.node.exchanges.doubted for host in world.hosts)
    assert refused


def test_records_for_a_key_of_others_change_nothing() -> None:
    world = healing(nodes=4)
    key = next(f"k{number}" for number in range(100) if 3 not in world.owners(f"k{number}"))
    world.put(key, b"v")
    world.run(5.0)
    image = world.register(world.owners(key)[0], key).shown
    record = [world.row_key(key), image.committed_ballot, image.committed.body, image.committed.window, b""]
    world.post(0, 3, (m.RECORDS, 1, 1, record))
    world.run()
    assert not world.register(3, key).image.committed_ballot
    assert name_of(key) in world.row_key(key)


def compare(world: World, store: str = "") -> None:
    """Ask every node to compare now, as `kvnode repair` does."""
    for index in range(len(world.hosts)):
        call = world.ask(index, m.COMPARE, 1, store)
        world.run()
        assert call.kind == m.RESULT


def progress(world: World, index: int) -> dict[str, Any]:
    call = world.ask(index, m.COMPARE, 0, "")
    world.run()
    assert call.answer is not None
    facts: dict[str, Any] = call.answer[2]
    return facts


def test_a_comparison_on_demand_does_not_wait_for_the_schedule() -> None:
    world = healing(replace(LIMITS, repair_interval_s=100_000.0))
    world.run(10.0)
    behind(world, 2, 10, strong=False)
    world.run(10.0)
    assert len(differing(world, 10)) == 10
    compare(world)
    assert progress(world, 0)["running"]
    world.run(20.0)
    facts = [progress(world, index) for index in range(3)]
    assert not any(one["running"] for one in facts)
    assert sum(one["repaired"] for one in facts) == 10
    assert [one["ranges"] for one in facts] == [one["compared"] for one in facts] == [32, 16, 0]
    assert not any(one["failed"] for one in facts)
    assert differing(world, 10) == []


def test_a_comparison_on_demand_names_who_could_not_be_compared() -> None:
    world = healing()
    world.cut(0, 2)
    compare(world)
    world.run(20.0)
    assert progress(world, 0)["failed"] == ["n3"]
    assert progress(world, 1)["failed"] == []


def test_a_comparison_of_one_store_repairs_that_store() -> None:
    world = healing(replace(LIMITS, repair_interval_s=100_000.0))
    world.run(10.0)
    world.cut(0, 2)
    world.cut(1, 2)
    for store in ("one", "two"):
        for number in range(10):
            world.ask(0, m.WRITE, f"{store}\0k{number}".encode(), 1, 5000, b"\0v", 0, b"", b"")
    world.run(1.0)
    world.mend(0, 2)
    world.mend(1, 2)
    compare(world, "one")
    world.run(30.0)
    held = {"one": 0, "two": 0}
    for store in held:
        for number in range(10):
            name = f"{store}\0k{number}".encode()
            row_key = world.hosts[2].node.placements.of(name).prefix + name
            held[store] += bool(world.hosts[2].node.registers.get(row_key).shown.overlay)
    assert held == {"one": 10, "two": 0}


def test_a_node_to_which_hints_are_owed_is_compared_after_them() -> None:
    world = healing(replace(LIMITS, repair_interval_s=100_000.0))
    world.run(10.0)
    behind(world, 2, 10, strong=False)
    owed = [True]
    for index in range(2):
        node = world.hosts[index].node
        node.healing.anti_entropy.is_owed = lambda index: owed[0]
        node.healing.on_peer_up(2)
    world.run(30.0)
    assert len(differing(world, 10)) == 10
    world.run(anti_entropy.HINTS_S)
    assert differing(world, 10) == []  # hints that never arrive are not waited for for ever


def killed(world: World, keys: int, value_bytes: int) -> list[int]:
    """Write keys, kill a node when all of them are committed, let it come back, and return what the nodes had sent."""
    for number in range(keys):
        world.put(f"k{number}", bytes(value_bytes), number % 3)
        world.run()
    world.run(12.0)
    assert differing(world, keys) == []
    world.crash(2)
    world.restart(2)
    world.hosts[2].node.healing.anti_entropy.start()
    assert len(differing(world, keys)) == keys, "a commit was on disk"
    return [host.node.healing.jobs.sent_bytes for host in world.hosts[:2]]


def counted(world: World, kind: int) -> list[Any]:
    """Return a list of the messages of a kind that are sent from now on."""
    seen: list[Any] = []

    def note(source: int, target: int, message: Any) -> bool:
        if message[0] == kind:
            seen.append(message)
        return True

    world.on_post = note
    return seen


def test_a_killed_node_gets_marks_for_what_it_had_accepted_and_no_records() -> None:
    """R12: it has every record, durably, and lost the news that they are chosen."""
    world = healing()
    before = killed(world, 200, 1000)
    records = catch(world, m.RECORDS)
    world.run(20.0)
    assert not records.messages
    records.stop()
    assert differing(world, 200) == []
    sent = [host.node.healing.jobs.sent_bytes for host in world.hosts[:2]]
    assert sum(sent) - sum(before) < 60_000, "records of 200,000 bytes"
    marked = sum(host.node.healing.mending.marked for host in world.hosts)
    assert marked == world.hosts[2].node.healing.mending.repaired
    assert marked > 100, "the resolver of the killed node was not sooner"
    check_trees(world)
    world.invariants()


def test_records_follow_marks_where_a_node_does_not_hold_them_and_soon_go_alone() -> None:
    world = healing()
    marks = counted(world, m.MARK)
    behind(world, 2, 600, strong=True)
    world.run(20.0)
    assert differing(world, 600) == []
    assert 0 < len(marks) <= 6, "most batches go without marks that are in vain"
    assert sum(host.node.healing.mending.marked for host in world.hosts) == 0
    check_trees(world)


def test_marks_ask_the_repair_budget() -> None:
    world = healing(replace(LIMITS, repair_operations_per_s=10))
    killed(world, 200, 10)
    marks = counted(world, m.MARK)
    world.run(4.0)
    assert 0 < len(marks) <= 3
    world.run(60.0)
    assert differing(world, 200) == []


def test_an_entry_over_a_record_goes_with_it() -> None:
    """A mark alone would leave the entry behind: what has one is sent whole."""
    world = healing()
    killed(world, 10, 10)
    world.cut(0, 2)
    world.cut(1, 2)
    for number in range(10):
        world.write(f"k{number}", b"later", 0)
        world.run(0.01)
    world.mend(0, 2)
    world.mend(1, 2)
    world.run(20.0)
    assert differing(world, 10) == []
    assert all(seen_by(world, 2, f"k{number}") == b"later" for number in range(10))


@pytest.mark.parametrize(
    "fields", [[b"key"], [b"\0\0d\0k", b"short"], ["key", "ballot"], [b"\0\0d\0k", bytes(28)] * 65]
)
def test_malformed_marks_close_the_link(fields: list[Any]) -> None:
    world = healing()
    world.post(0, 1, (m.MARK, 5, 1, fields))
    with pytest.raises(m.MessageError):
        world.run()


@pytest.mark.parametrize("numbers", [b"\xff\xff", bytes(20_000)])
def test_a_malformed_answer_to_marks_ends_the_comparison(numbers: bytes) -> None:
    """Also one that names a record again and again: it would be sent as often, all in one message."""
    world = healing()
    killed(world, 10, 10)

    def distort(source: int, target: int, message: Any) -> bool:
        assert message[0] != m.RECORDS or len(message[3]) <= 5 * 64
        if message[0] == m.MARK:
            world.post(target, source, (m.MARKED, message[1], 1, numbers))
            return False
        return True

    world.on_post = distort
    with pytest.raises(m.MessageError):
        world.run(5.0)
    world.on_post = lambda source, target, message: True
    world.run(30.0)
    assert differing(world, 10) == []


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_node_whose_disk_was_full_gets_what_it_coordinated_and_could_not_keep(at: int) -> None:
    """Nobody owes it that, so it asks: also those who otherwise ask it."""
    world = healing(replace(LIMITS, repair_interval_s=1e6))
    world.run(5.0)
    world.hosts[at].engine.writable = False
    call = world.write("k", b"v", at)
    world.run(10.0)
    assert call.kind == m.APPLIED
    compared = [host.node.healing.anti_entropy.comparisons for host in world.hosts]
    assert seen_by(world, at) is None
    world.hosts[at].engine.writable = True
    world.run(10.0)
    assert seen_by(world, at) == b"v"
    for index, host in enumerate(world.hosts):
        assert host.node.healing.anti_entropy.comparisons == compared[index] + (2 if index == at else 0)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_record_for_which_there_was_no_room_is_asked_for_once_there_is(at: int) -> None:
    world = healing(replace(LIMITS, repair_interval_s=1e6))
    world.run(5.0)
    lost, records = catch(world, m.ACCEPT, target=at), catch(world, m.COMMIT, target=at)
    call = world.put("k", b"v", (at + 1) % 3)
    world.run(1.0)
    assert call.kind == m.APPLIED
    lost.stop()
    world.hosts[at].engine.writable = False
    records.pour()
    records.stop()
    world.run(5.0)
    assert seen_by(world, at) is None
    world.hosts[at].engine.writable = True
    world.run(10.0)
    assert seen_by(world, at) == b"v"
