"""A simulator of Kling's API: try everything on one machine, without an account, and with injected faults.

It implements the documented protocol of both generations: create, query, list, callbacks, keys, error codes, slots. It
shares no code with the service, so each side checks the other's interpretation of the documentation. Results are not
real generations, but can be downloaded: valid images and sounds, and videos without frames.

Marks in the prompt control a task::

    [fail]  [fail: reason]   ends as failed, with that reason in ``task_status_msg``
    [slow]                   takes ``slow_for`` instead of ``processing_for``
    [stuck]                  stays in processing forever
    [empty]                  succeeds without a result
    [unsafe]                 is refused at once, 400 and 1301

Set faults with the options, or at runtime with ``POST /_simulator/faults``; :class:`Faults` lists the names::

    {"drop": 0.5}                                        half of all callbacks
    {"duplicate": {"next": 2}}                           the next two
    {"drop": {"next": 1, "on": ["succeed"]}}             the next one that reports success
    {"refuse": [{"code": 1303, "next": 3}]}              the next three creates
    {"refuse": [{"code": 5000, "created": true}]}        one create that answers 5000 but creates the task
    {"processing_for": "1m"}                             timing, for tasks created from now on

``GET`` shows the faults, ``DELETE`` ends all of them, and ``GET /_simulator/state`` returns all recorded requests and
callbacks. ``POST /_simulator/test-push {"url": ...}`` sends the test callback of the vendor's console.
"""

from receiver.kling.simulator.account import Simulator
from receiver.kling.simulator.faults import FaultRate, Faults, InjectedError, InvalidOption
from receiver.kling.simulator.observer import Observer
from receiver.kling.simulator.options import Options
from receiver.kling.simulator.server import make_app, run, serve

__all__ = [
    "FaultRate",
    "Faults",
    "InjectedError",
    "InvalidOption",
    "Observer",
    "Options",
    "Simulator",
    "make_app",
    "run",
    "serve",
]
