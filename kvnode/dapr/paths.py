"""What the path of a request names, found as Dapr's runtime finds it: on the escaped path.

Decides: the path is cleaned (`//` is `/`, `.` and `..` are resolved, a slash at the end is dropped) while it is still
escaped, then cut at its slashes, and only then is each part decoded, by the rules of a query: `%2F` in a key is a
slash, and `+` is a space.  Leaves to others: which parts and methods mean what (`http`).
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote_to_bytes

from kvnode.dapr import errors

_is_escaped_wrongly = re.compile(r"%(?![0-9A-Fa-f]{2})").search


def parts_of(path: str) -> list[str]:
    """Return the parts of an escaped path, still escaped: "/v1.0//state/s/k/" -> ["v1.0", "state", "s", "k"]."""
    parts = path.split("/")[1:]
    if "" not in parts and "." not in parts and ".." not in parts:
        return parts
    cleaned: list[str] = []
    for part in parts:
        if part == "..":
            if cleaned:
                cleaned.pop()
        elif part and part != ".":
            cleaned.append(part)
    return cleaned


def decoded(part: str) -> str:
    """Return what an escaped part says.  Raises StateError."""
    if "%" not in part and "+" not in part:
        return part
    if _is_escaped_wrongly(part):
        raise errors.malformed(f"{part!r:.80} in the path has a '%' without two hexadecimal digits: send '%25'")
    try:
        return unquote_to_bytes(part.replace("+", " ")).decode()
    except UnicodeDecodeError as error:
        raise errors.malformed(f"{part!r:.80} in the path is not UTF-8: {error.reason}") from error


def query_of(query: bytes) -> dict[str, str]:
    """Return the parameters of a query; of several with one name the first.  Raises StateError."""
    if not query:
        return {}
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError as error:
        raise errors.malformed(f"the query {query!r:.80} cannot be read: {error}") from error
    found: dict[str, str] = {}
    for name, text in pairs:
        found.setdefault(name, text)
    return found
