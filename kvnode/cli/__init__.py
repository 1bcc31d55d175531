"""The command line: what people type, and what they see.

`commands` holds the commands of a cluster and `main`; `operations` those of single keys and of files.  `target` finds
the cluster that is meant, `show` prints (tables for people, JSON for machines), `lines` turns text into values and
back, `wording` the client's errors into the words of the command line; `transfer`, `journal` and `dump` carry imports
and exports.  Whatever a command needs beyond click is imported when it runs, so that `kvnode node` stays small.
"""

from kvnode.cli.commands import main

__all__ = ["main"]
