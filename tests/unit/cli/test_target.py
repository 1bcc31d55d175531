"""Which cluster is meant: options that contradict each other are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvclient.errors import InvalidRequest
from kvnode import config as configuration
from kvnode.cli import target
from kvnode.local.statefile import CONFIG_FILE


def write(path: Path, nodes: int = 3, name: str = "local", port: int = 7401) -> Path:
    text = configuration.local(nodes, path.parent / "data").to_toml().replace('"local"', f'"{name}"')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace("port = 740", f"port = {port // 10}"))
    return path


@pytest.mark.parametrize("other", ["config", "data_dir"])
def test_an_address_beside_a_file_or_directory_is_refused(tmp_path: Path, other: str) -> None:
    given = write(tmp_path / CONFIG_FILE) if other == "config" else tmp_path
    with pytest.raises(InvalidRequest, match="--address and --"):
        target.find(("127.0.0.1:7401",), **{other: given})


@pytest.mark.parametrize("change", [{"name": "other"}, {"port": 7501}])
@pytest.mark.parametrize("find", [target.find_config, target.find_directory])
def test_a_file_and_a_directory_of_different_clusters_are_refused(
    tmp_path: Path, change: dict[str, object], find: object
) -> None:
    config = write(tmp_path / CONFIG_FILE)
    write(tmp_path / "one" / CONFIG_FILE, **change)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="different clusters"):
        find(config, tmp_path / "one")  # type: ignore[operator]


@pytest.mark.parametrize("nodes", [3, 5])
def test_a_directory_that_was_started_with_the_file_goes_with_it(tmp_path: Path, nodes: int) -> None:
    config = write(tmp_path / CONFIG_FILE)
    started = write(tmp_path / "one" / CONFIG_FILE, nodes)
    assert target.find_config(config, tmp_path / "one") == started
    assert target.find_directory(config, tmp_path / "one") == tmp_path / "one"
    assert len(target.find(config=config, data_dir=started.parent).names) == nodes
