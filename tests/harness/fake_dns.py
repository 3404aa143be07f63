"""A fake resolver for a process under test."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

TEMPORARY_FAILURE = "dead"
"""Instead of an address: this lookup fails temporarily."""

# The system's resolver with additional names. Each lookup of one returns its next address, then always the last.
_RESOLVER = """
import json, os, socket

answers = json.loads(os.environ["ANSWERS"])
ask = socket.getaddrinfo

def getaddrinfo(host, port, *args, **kwargs):
    host = host.decode() if isinstance(host, bytes) else host
    if host not in answers:
        return ask(host, port, *args, **kwargs)
    if kwargs.get("flags", 0) & socket.AI_NUMERICHOST:
        raise socket.gaierror(socket.EAI_NONAME, "it is a name")
    given = answers[host]
    address = given.pop(0) if len(given) > 1 else given[0]
    if address == "dead":
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return [entry for each in address.split() for entry in ask(each, port, type=socket.SOCK_STREAM)]

socket.getaddrinfo = getaddrinfo
"""


def fake_dns_environment(folder: Path, answers: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the environment of a process in which these names have these addresses."""
    (folder / "sitecustomize.py").write_text(_RESOLVER)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, "ANSWERS": json.dumps({name: list(given) for name, given in answers.items()})}
