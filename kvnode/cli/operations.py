"""Commands for single operations and whole files: get, put, delete, scan, import, export, explain.

Decides: how values are written on a command line, and what is printed.  Leaves to others: the operations (`kvclient`),
whole files (`transfer`, `dump`), exit codes (`commands`), and the look of tables (`show`).

VALUE is JSON if it parses as JSON, otherwise the text itself: `put k 1` stores a number, `put k hello` a string.
JSON is stored untouched.  What comes from a file or stdin is stored as bytes, so that `get` gives the same bytes back.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kvclient import options
from kvclient.errors import InvalidRequest
from kvnode.cli import show, target

if TYPE_CHECKING:
    from kvclient import Item, Store

T = TypeVar("T")
Decorated = TypeVar("Decorated", bound=Callable[..., Any])
NOT_FOUND = 1
TIMEOUT_S_MAX = 3600.0
"""The most that any cluster can allow."""

config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="The cluster file.  Default: ./cluster.toml."
)
data_dir_option = click.option(
    "--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Data directory of a cluster started by `up`."
)
address_option = click.option(
    "--address", multiple=True, metavar="HOST:PORT", help="A node to connect to; may be repeated."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")


def _options(*options: Callable[[Decorated], Decorated]) -> Callable[[Decorated], Decorated]:
    def decorate(command: Decorated) -> Decorated:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


target_options = _options(config_option, address_option, data_dir_option)
store_options = _options(
    target_options,
    click.option("--store", default="default", show_default=True, help="The store that holds the key."),
    click.option("--timeout", type=float, metavar="SECONDS", help="How long to try.  Default: the cluster's."),
)
consistency_option = click.option(
    "--consistency", type=click.Choice(["eventual", "quorum", "strong"]), help="Default: the store's."
)
write_options = _options(
    store_options,
    consistency_option,
    click.option("--etag", help="Only if this is the key's current ETag; otherwise exit code 3."),
    click.option("-w", metavar="N|any", help="Acknowledgements that an eventual write waits for."),
    json_option,
)


class Cluster:
    """Where a command goes: what the target options said."""

    def __init__(self, config: Path | None, address: tuple[str, ...], data_dir: Path | None) -> None:
        self.target = target.find(address, config, data_dir)

    def run(self, store: str, timeout: float | None, work: Callable[[Store], Awaitable[T]]) -> T:
        """Connect, run `work` on a store, disconnect, and return what it returned."""
        import kvclient
        from kvclient.client import CONNECT_TIMEOUT_S

        _check_timeout(timeout)

        async def connected() -> T:
            where = self.target
            connect_s = CONNECT_TIMEOUT_S if timeout is None else timeout
            async with kvclient.connect(
                where.address_texts, cluster=where.cluster, timeout=timeout, connect_timeout=connect_s
            ) as kv:
                return await work(kv.store(store))

        return asyncio.run(connected())


def _check_timeout(timeout: float | None) -> None:
    if timeout is not None:
        options.seconds("timeout", timeout, TIMEOUT_S_MAX)


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that were given: the rest is the store's to decide."""
    return {name: value for name, value in options.items() if value is not None and value is not False}


def _print_value(item: Item, raw: bool) -> None:
    """Print a value: JSON on one line, bytes as they are, and if it shall be raw, text too."""
    from kvnode.cli import lines

    if isinstance(item.value, bytes) or (raw and isinstance(item.value, str)):
        sys.stdout.buffer.write(item.value if isinstance(item.value, bytes) else item.value.encode())
        if show.is_terminal(sys.stdout):
            click.echo()
    else:
        click.echo(lines.value_text(item))


# -- the commands


@click.command()
@click.argument("key")
@store_options
@consistency_option
@click.option("-r", type=int, metavar="N", help="Replies that an eventual read waits for.")
@click.option("--raw", is_flag=True, help="Print text and bytes as they are: no quotes, no line break.")
@json_option
def get(
    key: str,
    config: Path | None,
    address: tuple[str, ...],
    data_dir: Path | None,
    store: str,
    timeout: float | None,
    consistency: str | None,
    r: int | None,
    raw: bool,
    as_json: bool,
) -> None:
    """Print the value of KEY as JSON, or bytes as they are; exit code 1 if there is none."""
    from kvnode.cli import lines

    if raw and as_json:
        raise click.UsageError("give either --raw or --json")
    given = _given(consistency=consistency, r=r)
    item = Cluster(config, address, data_dir).run(store, timeout, lambda kv: kv.get(key, **given))
    if item is None:
        click.echo(f"kvnode: there is no key {show.as_json(key)} in store {store!r}", err=True)
        sys.exit(NOT_FOUND)
    if as_json:
        click.echo(lines.item_json(item))
    else:
        _print_value(item, raw)


@click.command()
@click.argument("key")
@click.argument("value", required=False)
@write_options
@click.option("--create", is_flag=True, help="Only if the key does not exist; otherwise exit code 3.")
@click.option("--ttl", type=float, metavar="SECONDS", help="How long the value lives.  Default: the store's.")
@click.option("--file", type=click.File("rb"), help="Store this file's bytes.")
@click.option("--as", "kind", type=click.Choice(["json", "text", "bytes"]), help="Store the value as this.")
@click.option("--raw", "kind", flag_value="bytes", type=str, help="The same as --as bytes.")
def put(
    key: str,
    value: str | None,
    config: Path | None,
    address: tuple[str, ...],
    data_dir: Path | None,
    store: str,
    timeout: float | None,
    file: Any,
    kind: str | None,
    w: str | None,
    as_json: bool,
    **checks: Any,
) -> None:
    """Store VALUE under KEY and print the new ETag.

    VALUE is JSON if it parses as JSON (`1`, `true`, `{"a": 1}`), otherwise text (`hello`); --as decides otherwise.
    VALUE "-" (stdin) and --file store bytes unless --as says json or text.
    """
    from kvnode.cli import lines

    if (value is None) == (file is None):
        raise click.UsageError("give either VALUE or --file")
    if value is None or value == "-":
        stored = lines.value_of_bytes((file or sys.stdin.buffer).read(), kind)
    else:
        stored = lines.value_of(value, kind)
    given = _given(w=_copies(w), **checks)
    item = Cluster(config, address, data_dir).run(store, timeout, lambda kv: kv.put(key, stored, **given))
    if item.explain and item.explain.get("superseded"):
        click.echo("kvnode: the value is stored, but a later one stands over it (superseded)", err=True)
    click.echo(show.as_json({"key": key, "etag": item.etag}) if as_json else item.etag)


@click.command()
@click.argument("key")
@write_options
def delete(
    key: str,
    config: Path | None,
    address: tuple[str, ...],
    data_dir: Path | None,
    store: str,
    timeout: float | None,
    w: str | None,
    as_json: bool,
    **checks: Any,
) -> None:
    """Delete KEY; deleting a key that does not exist is done, too."""
    given = _given(w=_copies(w), **checks)
    Cluster(config, address, data_dir).run(store, timeout, lambda kv: kv.delete(key, **given))
    if as_json:
        click.echo(show.as_json({"key": key, "deleted": True}))


def _copies(text: str | None) -> int | str | None:
    if text is None or text == "any":
        return text
    try:
        return int(text)
    except ValueError as error:
        raise InvalidRequest(f"-w {text} is neither a number of replicas nor any") from error


@click.command()
@click.argument("prefix", default="")
@store_options
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Stop after so many keys.")
@click.option("--values", is_flag=True, help="Print values too: key, tab, value.")
@json_option
def scan(
    prefix: str,
    config: Path | None,
    address: tuple[str, ...],
    data_dir: Path | None,
    store: str,
    timeout: float | None,
    limit: int | None,
    values: bool,
    as_json: bool,
) -> None:
    """List the keys that begin with PREFIX, in order.

    The list is an eventual view: a write that is just under way, or one that only another replica has, may be missing.
    With --json one object per line.
    """

    async def work(kv: Store) -> None:
        async for item in kv.scan(prefix, values=values or as_json, limit=limit):
            click.echo(_scan_line(item, values, as_json))

    if show.is_terminal(sys.stdout):
        click.echo("an eventual view of the store:", err=True)
    Cluster(config, address, data_dir).run(store, timeout, work)


def _scan_line(item: Item, values: bool, as_json: bool) -> str:
    from kvnode.cli import lines

    if as_json:
        return lines.item_json(item)
    key = item.key if item.key.isprintable() else show.as_json(item.key)
    return f"{key}\t{lines.dump_value(item)}" if values else key


@click.command()
@click.argument("key")
@store_options
@json_option
def explain(
    key: str,
    config: Path | None,
    address: tuple[str, ...],
    data_dir: Path | None,
    store: str,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Show where KEY lives, what each replica holds of it, and what a strong read would do.

    A replica has promised to refuse lower ballots; it may hold an accepted record, which is not known to be chosen, a
    committed one, which is, and an overlay: an eventual write that no strong operation has taken in yet.  A ballot is
    written milliseconds.counter@node id/start of the node#number, or "up to" a time for all ballots until then; a
    version is the ballot of the strong change that it is, or is based on, + the stamp of an eventual write.
    """
    facts = Cluster(config, address, data_dir).run(store, timeout, lambda kv: kv.explain(key))
    click.echo(show.as_json(facts) if as_json else show.explanation(facts))


@click.command("import")
@click.argument("file")
@store_options
@click.option(
    "--consistency",
    type=click.Choice(["eventual", "quorum", "strong"]),
    default="strong",
    show_default=True,
    help="How each line is written.",
)
@click.option("--concurrency", type=click.IntRange(1, 4096), default=64, show_default=True, help="Writes in flight.")
@click.option("--keep-going", is_flag=True, help="Report bad lines and refused writes, and go on with the others.")
@click.option(
    "--progress", type=click.Path(path_type=Path), help="Where to note progress.  Default: FILE.kvnode-import."
)
@click.option("--again", is_flag=True, help="Forget earlier progress: write every line once more.")
@json_option
def import_(
    file: str,
    config: Path | None,
    address: tuple[str, ...],
    data_dir: Path | None,
    store: str,
    timeout: float | None,
    as_json: bool,
    **choices: Any,
) -> None:
    """Load JSON Lines {"key": ..., "value": ...} from FILE, or from stdin if FILE is "-".

    Bytes stand as {"key": ..., "base64": ...}.  If a key occurs several times, its last line wins.

    Lines are written with operation ids that are kept, with the progress, in FILE.kvnode-import.  Run the same command
    again after an interruption and it goes on where it stopped: a line that was written is not written again, even
    if its answer was lost.  Ids live for some minutes only; for the few lines that were under way longer ago than
    that, the key is read (strong) and written only if it does not hold the line's value.  A finished import is not
    repeated without --again.  Stdin cannot be resumed, and eventual writes have no ids: the lines that were under
    way are written again.

    A bad line (not JSON, a bad key, too large) stops the import, or with --keep-going is reported and left out.  The
    exit code is 2 for bad lines, 4 if writes were refused, 5 if the outcome of some is unknown.
    """
    from kvnode.cli import transfer

    _check_timeout(timeout)
    cluster = Cluster(config, address, data_dir)
    tried_s = transfer.TIMEOUT_S if timeout is None else timeout
    job = transfer.ImportJob(file=file, store=store, timeout=tried_s, **choices)
    report = transfer.run_import(job, cluster.target)
    click.echo(show.as_json(report.facts()) if as_json else report.sentence())
    sys.exit(report.exit_code)


@click.command()
@click.argument("prefix", default="")
@store_options
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.  Default: stdout.")
def export(
    prefix: str,
    config: Path | None,
    address: tuple[str, ...],
    data_dir: Path | None,
    store: str,
    timeout: float | None,
    output: Path | None,
) -> None:
    """Print every key that begins with PREFIX as JSON Lines {"key": ..., "value": ...}, in the order of the keys.

    It is an eventual view: a write that is just under way, or one that only another replica has, may be missing.
    With --output the file appears when it is complete; an interrupted export leaves FILE.partial, and the same
    command goes on after its last line.
    """
    from kvnode.cli import dump

    click.echo("kvnode: this is an eventual view of the store, not a snapshot", err=True)
    cluster = Cluster(config, address, data_dir)
    identity = show.as_json([cluster.target.cluster, store, prefix])
    count = cluster.run(store, timeout, lambda kv: dump.export(kv, prefix, output, identity))
    click.echo(f"{show.counted(count, 'key')} exported" + (f" to {output}" if output else ""), err=True)


COMMANDS: tuple[click.Command, ...] = (get, put, delete, scan, import_, export, explain)
