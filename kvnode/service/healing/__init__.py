"""Healing: what a node does by itself so that replicas become equal, and nothing stays that nobody wants.

Decides: nothing; `assembly` puts anti-entropy together (what differs is found without a read and without a memory of
it), `upkeep` the chores (what nobody finished is settled, what was deleted goes).  The rest of the service does not
import it: no request waits for anything here.  What requests do take part in is outside: debts (`handoff`, `recent`),
read repair (`commits`), the list of undecided proposals (`undecided`), the repair budget (`pace`).
"""
