"""Kling's side of the wire: everything can be tried on one machine, without an account, and with Kling at its worst.

It speaks the documented protocol of both generations: create, query, list, callbacks, keys, error codes, slots. It
shares no code with the service, so that each side checks the other's reading of the documentation. Nothing it makes is
a real generation, but every result can be fetched: pictures are pictures, sounds are sounds, films have no frames.

How a task goes is told by words in its prompt::

    [fail]  [fail: reason]   ends as failed, with that reason in ``task_status_msg``
    [slow]                   takes ``slow_for`` instead of ``processing_for``
    [stuck]                  stays in processing for ever
    [empty]                  succeeds without a result
    [unsafe]                 is refused at once, 400 and 1301

Faults come with the options, and while it runs by ``POST /_simulator/faults`` with the same names, which
:class:`Faults` lists::

    {"drop": 0.5}                                        half of all callbacks
    {"duplicate": {"next": 2}}                           the next two
    {"drop": {"next": 1, "on": ["succeed"]}}             the next one that tells of a success
    {"refuse": [{"code": 1303, "next": 3}]}              the next three creates
    {"refuse": [{"code": 5000, "created": true}]}        one create that answers 5000 and makes the task all the same
    {"processing_for": "1m"}                             the pace, for tasks created from now on

``GET`` shows what is set, ``DELETE`` ends every fault, ``GET /_simulator/state`` tells all that was seen and sent, and
``POST /_simulator/test-push {"url": ...}`` sends what the vendor's console sends to try a callback URL.
"""

from receiver.kling.simulator.account import Simulator
from receiver.kling.simulator.faults import FaultRate, Faults, InjectedError
from receiver.kling.simulator.observer import Observer
from receiver.kling.simulator.options import Options
from receiver.kling.simulator.server import make_app, run, serve

__all__ = ["FaultRate", "Faults", "InjectedError", "Observer", "Options", "Simulator", "make_app", "run", "serve"]
