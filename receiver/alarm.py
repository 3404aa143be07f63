"""Says what is wrong with the way to Kling and back, once, and that it is right again."""

from receiver.account import Account
from receiver.announce import Announcer
from receiver.attendance import Turn
from receiver.bells import Bells
from receiver.clock import Clock
from receiver.errors import KlingError, KlingRefusal
from receiver.model import Json
from receiver.store import Intake


class Alarm:
    """Stores alerts that belong to no task and lets the routes that want them have them."""

    def __init__(self, intake: Intake, announcer: Announcer, *, public_url: str, bells: Bells, clock: Clock) -> None:
        self._intake = intake
        self._announcer = announcer
        self._public_url = public_url
        self._account = Account()
        self._bells = bells
        self._clock = clock

    async def called(self, error: KlingError | None, *, by: str) -> None:
        """Take in how a call to Kling ended: the account may be in trouble, or out of it."""
        match self._account.saw(error, by=by):
            case True if error is not None:
                code = error.kling_code if isinstance(error, KlingRefusal) else None
                request_id = error.request_id if isinstance(error, KlingRefusal) else ""
                await self._raise(
                    "account",
                    {
                        "message": f"Kling takes nothing from this account: {error.message}",
                        "remedy": f"{error.remedy} Queued tasks wait, and go by themselves when it is mended.",
                        "kling_code": code,
                        "request_id": request_id,
                    },
                )
            case False:
                await self._raise("account_recovered", {"message": "Kling takes tasks from this account again."})

    async def attended(self, turn: Turn) -> None:
        """Tell that callbacks stay away, or come again."""
        counts: Json = {"missed": turn.missed, "of": turn.ended}
        if not turn.is_missing:
            await self._raise("callbacks_recovered", {"message": "Kling's callbacks arrive again.", **counts})
            return
        await self._raise(
            "callbacks_missed",
            {
                "message": (
                    f"Of the last {turn.ended} tasks that ended, {turn.missed} were found out by asking: "
                    "their callbacks never came. No result is lost, but each comes late."
                ),
                "remedy": (
                    f"Check that {self._public_url} leads to the public listener from outside: [public] url, DNS, "
                    "certificate, the tunnel (it may have stopped forwarding without exiting), and that no proxy or "
                    "firewall before it answers with a redirect, a challenge, 403 or 413."
                ),
                **counts,
            },
        )

    async def _raise(self, what: str, data: Json) -> None:
        said = self._announcer.alert(what, data, at=self._clock.now())
        await self._intake.record([said.event], said.deliveries)
        self._bells.events.ring()
        if said.deliveries:
            self._bells.deliveries.ring()
