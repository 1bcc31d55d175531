"""The client's sentences in the words of the command line: `--create` where Python says `create=True`.

Decides: which words change, and nothing else.  A word that is missing here is shown as the client wrote it.
"""

from __future__ import annotations

import re

from kvclient.errors import KvError

_READ = "read the key with --consistency strong to see what stands there"
_WORDS = (
    (re.compile(r"\bcreate=True\b"), "--create"),
    (re.compile(r"\betag=(?=[ :,]|$)"), "--etag"),
    (re.compile(r"\betag must be\b"), "--etag must be"),
    (re.compile(r"\b([rw])=(?=\S+ must be\b)"), r"-\1 "),
    (re.compile(r"\b(ttl|timeout)=(?=\S+ must be\b)"), r"--\1 "),
    (re.compile(r"\bask again with its operation id\b"), _READ),
    (re.compile(r"\bask again with the same operation id\b"), "it may still take effect"),
)


def sentence_of(error: KvError) -> str:
    """Return what an error says, for somebody who typed a command."""
    sentence = str(error)
    for said, shown in _WORDS:
        sentence = said.sub(shown, sentence)
    return sentence
