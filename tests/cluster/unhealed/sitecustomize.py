"""A planted mistake, for nodes that run with this directory on PYTHONPATH: they heal nothing without a read.

No hint is noted, and no trees are compared.  Python imports this by itself when it starts.
"""

from kvnode.service.handoff import Handoff
from kvnode.service.healing.anti_entropy import AntiEntropy

AntiEntropy.sweep = lambda self, now_s: None
Handoff.owe = lambda self, key, missing: None
