"""Clients race through three gateways while a node is killed and comes back: each ETag has one winner, each key one
creator, nothing won is lost, and nothing that was "not applied" is ever seen."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from gateways import run_gateway, settings_of
from processes import run_cluster

WRITERS = 6
WINS = 25
"""Writes that must win in each part of the race: before the kill, while the node is away, after it is back."""
LIMIT_S = 60
PATH = "/v1.0/state/strong"
OUTCOMES = {204: None, 200: None, 409: "not-applied", 503: "not-applied", 504: "unknown"}


class Race:
    """What the clients did and saw."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.wins: list[tuple[str, str]] = []
        """(ETag that was replaced, ETag that came of it)."""
        self.unknown: list[str] = []
        """ETags over which a write may have been applied."""
        self.refused: set[str] = set()
        """Values that were not applied."""
        self.seen: dict[str, str] = {}
        """ETag -> the value that was read with it."""
        self.creators: dict[int, list[str]] = {}
        """Round -> those who were told that they created."""
        self.in_doubt: set[int] = set()
        """Rounds in which somebody was told that nobody knows."""
        self.lock = threading.Lock()
        self.defects: list[str] = []

    def ask(self, call: Callable[[], httpx.Response]) -> httpx.Response:
        """Ask, and note an answer that there must not be."""
        answer = call()
        if answer.status_code not in OUTCOMES or answer.headers.get("x-outcome") != OUTCOMES[answer.status_code]:
            self.defects.append(f"{answer.status_code} {dict(answer.headers)} {answer.text}")
        return answer

    def read(self, http: httpx.Client) -> tuple[str, Any] | None:
        """Read the value that all replace."""
        answer = self.ask(lambda: http.get(f"{PATH}/chain"))
        if answer.status_code != 200:
            return None
        etag, value = answer.headers["etag"], answer.json()
        with self.lock:
            if self.seen.setdefault(etag, value["by"]) != value["by"]:
                self.defects.append(f"{etag} stands for {value['by']} and for {self.seen[etag]}")
        return etag, value

    def write(self, http: httpx.Client, writer: str) -> None:
        """Replace the value, each time over the version that was read, until the race is over."""
        number = 0
        while not self.over.is_set():
            if (found := self.read(http)) is None:
                continue
            number += 1
            etag, value = found
            by = f"{writer}/{number}"
            item = {"key": "chain", "value": {"length": value["length"] + 1, "over": etag, "by": by}, "etag": etag}
            answer = self.ask(lambda item=item: http.post(PATH, json=[item]))  # type: ignore[misc]
            with self.lock:
                if answer.status_code == 204:
                    self.wins.append((etag, answer.headers["etag"]))
                elif answer.status_code == 504:
                    self.unknown.append(etag)
                else:
                    self.refused.add(by)

    def create(self, http: httpx.Client, creator: str) -> None:
        """Create one key after the other, which others create as well, until the race is over."""
        number = 0
        while not self.over.is_set():
            number += 1
            item = {"key": f"new{number}", "value": creator, "options": {"concurrency": "first-write"}}
            answer = self.ask(lambda item=item: http.post(PATH, json=[item]))  # type: ignore[misc]
            with self.lock:
                if answer.status_code == 204:
                    self.creators.setdefault(number, []).append(creator)
                elif answer.status_code == 504:
                    self.in_doubt.add(number)

    def run(self, what: Callable[[httpx.Client, str], None], url: str, name: str) -> None:
        """Run one client to the end of the race."""
        try:
            with httpx.Client(base_url=url, timeout=30) as http:
                what(http, name)
        except Exception as error:
            self.defects.append(f"{name}: {error!r}")

    def wait_for_more(self) -> None:
        """Wait until more writes have won, and more keys were created."""
        wins, created = len(self.wins) + WINS, len(self.creators) + WINS
        deadline_s = time.monotonic() + LIMIT_S
        while len(self.wins) < wins or len(self.creators) < created:
            assert time.monotonic() < deadline_s, f"{len(self.wins)} of {wins}, {len(self.creators)} of {created}"
            assert not self.defects, self.defects[:5]
            time.sleep(0.02)


def test_one_wins_each_race_while_a_node_is_killed_and_comes_back(tmp_path: Path) -> None:
    race = Race()
    with run_cluster(tmp_path / "cluster") as cluster, ExitStack() as stack:
        gateways = [stack.enter_context(run_gateway(settings_of(cluster))) for _ in range(3)]
        with httpx.Client(base_url=gateways[0].url, timeout=30) as http:
            start = {"key": "chain", "value": {"length": 0, "over": "", "by": "nobody"}}
            first = http.post(PATH, json=[start]).headers["etag"]
            clients = [
                threading.Thread(target=race.run, args=(what, gateways[number % 3].url, f"{number}"))
                for number in range(WRITERS)
                for what in (race.write, race.create)
            ]
            for client in clients:
                client.start()
            try:
                race.wait_for_more()
                cluster.tell("kill", "n2")
                race.wait_for_more()
                cluster.tell("restart", "n2")
                race.wait_for_more()
            finally:
                race.over.set()
                for client in clients:
                    client.join()
            last = race.read(http)
            keys = [f"new{number}" for number in range(1, max(race.creators) + 1)]
            created = http.post(f"{PATH}/bulk", json={"keys": keys}).json()
    assert race.defects == []
    assert last is not None
    check_chain(race, first, *last)
    check_creators(race, {item["key"]: item.get("data") for item in created})


def check_chain(race: Race, first: str, etag: str, value: Any) -> None:
    winners = Counter(replaced for replaced, _ in race.wins)
    assert max(winners.values()) == 1
    assert len({made for _, made in race.wins}) == len(race.wins)
    made = {first} | {made for _, made in race.wins}
    lost = made - set(winners) - {etag}  # what neither stands nor was replaced by a known winner
    assert lost <= set(race.unknown)
    assert len(race.wins) <= value["length"] <= len(race.wins) + len(race.unknown)
    assert not race.refused & set(race.seen.values()), "what was not applied has been read"


def check_creators(race: Race, stands: dict[str, Any]) -> None:
    for key, value in stands.items():
        number = int(key.removeprefix("new"))
        creators = race.creators.get(number, [])
        assert len(creators) <= 1, (key, creators)
        if creators:
            assert value == creators[0]
        elif number not in race.in_doubt:
            assert value is None, f"{key} was created, and everybody was told that it is another's"
