"""Costs of tasks, and the comparison of Kling's ledgers with them. Amounts are exact, and text."""

from collections.abc import Mapping, Sequence

from receiver.domain.api_schema.json_object import Amount, JsonObject, Timestamp, definition


@definition
class CostTotal(JsonObject):
    """The costs of a group of tasks."""

    name: str | None
    tasks: int
    """Number of tasks with a known cost."""
    charges: Mapping[str, Amount]
    """Exact amounts by unit."""


@definition
class CostReport(JsonObject):
    """The costs of tasks by a grouping, and in total."""

    by: str
    from_: Timestamp | None
    to: Timestamp | None
    items: Sequence[CostTotal]
    left_out: int
    """Number of groups that are not in `items`."""
    total: CostTotal


@definition
class CostEstimate(JsonObject):
    """What a task will probably cost, from the charges of past tasks with the same model and options."""

    endpoint: str
    model: str
    """The model that the body requests, or the endpoint's default; empty if neither is known."""
    pack: str | None
    slots: int
    """The number of slots that the task takes."""
    charges: Mapping[str, Amount]
    """The median by unit. Empty: unknown."""
    tasks: int
    """Number of past tasks that it is the median of."""
    summary: str
    """One line for people."""


@definition
class UnknownCharge(JsonObject):
    """A task that Kling billed and that is not in the store."""

    kling_id: str
    charged_at: Timestamp
    created_at: Timestamp | None
    """When Kling made the task, by its ID; a hint. Null if the ID contains no time."""
    charges: Mapping[str, Amount]
    product: str
    model: str
    api_key_name: str


@definition
class OwnCharge(JsonObject):
    """A task of this receiver, with its stored amounts."""

    task_id: str
    kling_id: str
    endpoint: str
    ended_at: Timestamp
    recorded: Mapping[str, Amount] | None
    """Null if Kling reported no cost with the task."""


@definition
class DifferentCharge(OwnCharge):
    """A task whose stored amounts are not what Kling billed."""

    billed: Mapping[str, Amount]


@definition
class Pack(JsonObject):
    """A prepaid pack of the account, and what is left of it. The figures may be 12 hours late."""

    id: str
    name: str
    status: str
    total: Amount
    left: Amount
    expires_at: Timestamp | None


@definition
class BillReport(JsonObject):
    """Kling's ledgers compared with the stored costs."""

    from_: Timestamp
    to: Timestamp
    agrees: bool
    billed: Mapping[str, Amount]
    """The sum of Kling's ledgers, by unit."""
    matched: int
    """Number of tasks whose amounts agree."""
    corrected: int
    """Number of these whose stored unit was replaced by the ledgers' unit."""
    unknown: Sequence[UnknownCharge]
    unbilled: Sequence[OwnCharge]
    """Tasks that succeeded, and that Kling had not billed 12 hours later."""
    different: Sequence[DifferentCharge]
    left_out: int
    """Number of further entries that these lists do not contain."""
    packs: Sequence[Pack]
