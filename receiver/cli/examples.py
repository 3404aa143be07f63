"""Examples of every command, for its help and for the manual page. A test parses each of them."""

from collections.abc import Mapping, Sequence

_TASK = "tsk_0kqz3v8d4y1m5x7n2r6t9w0b"

EXAMPLES: Mapping[str, Sequence[str]] = {
    "": ("demo", "serve --config /etc/kling-receiver/config.toml", "docs submitting"),
    "serve": ("serve", "serve --config /etc/kling-receiver/config.toml --log-level debug"),
    "demo": ("demo", "demo --keep --port 9000"),
    "simulate": ("simulate", "simulate --drop 30% --refuse 1303:3 --processing-for 10s"),
    "submit": (
        "submit images/multi-image2image --set prompt='two friends' --image a.png --image b.png --wait",
        "submit --body @jobs.jsonl --batch spring --close-batch --wait",
        "submit videos/text2video --body @body.json --tag project=ads --idempotency-key order-17",
    ),
    "endpoints": ("endpoints", "endpoints images/multi-image2image --json"),
    "callback-url": ("callback-url --endpoint images/generations --label spring", f"callback-url revoke {_TASK}"),
    "callback-url revoke": (f"callback-url revoke {_TASK}",),
    "tasks": ("tasks list --state failed", "tasks watch", f"tasks wait {_TASK} --timeout 10m"),
    "tasks list": (
        "tasks list --state failed --state rejected --batch spring",
        "tasks list --tag project=ads --json",
        "tasks list --profile office",
    ),
    "tasks show": (f"tasks show {_TASK}", "tasks show 867283741759111202 --json"),
    "tasks wait": (f"tasks wait {_TASK}", f"tasks wait {_TASK} --timeout 10m --json"),
    "tasks watch": ("tasks watch", "tasks watch --batch spring --limit 50"),
    "tasks cancel": (f"tasks cancel {_TASK}", "tasks cancel --batch spring --dry-run"),
    "tasks retry": (f"tasks retry {_TASK} --yes", "tasks retry --failed --batch spring --why 'new prompt filter'"),
    "tasks cost": ("tasks cost --by day --from 30d", "tasks cost --by tag:project --from 2026-11-01 --to 2026-12-01"),
    "costs": ("costs check", "costs check --from 2026-11-01 --to 2026-12-01"),
    "costs check": ("costs check", "costs check --from 2026-11-01 --to 2026-12-01"),
    "batches": ("batches list", "batches wait spring", "batches export spring --to results"),
    "batches list": ("batches list --state open",),
    "batches show": ("batches show spring", "batches show spring --json"),
    "batches wait": ("batches wait spring --timeout 2h",),
    "batches close": ("batches close spring --why 'all jobs are in'",),
    "batches export": ("batches export spring --to results",),
    "events": ("events list --type task.failed", "events show evt_0kqz3v8d4y1m5x7n2r6t9w0b"),
    "events list": ("events list --type task.failed", f"events list --task {_TASK} --json"),
    "events show": ("events show evt_0kqz3v8d4y1m5x7n2r6t9w0b",),
    "deliveries": ("deliveries list --status dead", "deliveries retry dlv_0kqz3v8d4y1m5x7n2r6t9w0b"),
    "deliveries list": ("deliveries list --status dead --route publish", f"deliveries list --task {_TASK}"),
    "deliveries show": ("deliveries show dlv_0kqz3v8d4y1m5x7n2r6t9w0b",),
    "deliveries retry": ("deliveries retry dlv_0kqz3v8d4y1m5x7n2r6t9w0b --why 'the server is back'",),
    "replay": ("replay --route publish --status dead --from 2h --dry-run", "replay --to-route archive --from 30d"),
    "replay list": ("replay list",),
    "replay show": ("replay show rpl_0kqz3v8d4y1m5x7n2r6t9w0b",),
    "replay cancel": ("replay cancel rpl_0kqz3v8d4y1m5x7n2r6t9w0b",),
    "alerts": ("alerts list", "alerts ack alr_0kqz3v8d4y1m5x7n2r6t9w0b --note 'deploying until 15:00'"),
    "alerts list": ("alerts list", "alerts list --all --type alert.route_held"),
    "alerts ack": ("alerts ack alr_0kqz3v8d4y1m5x7n2r6t9w0b --note 'deploying until 15:00'",),
    "routes": ("routes list", "routes hold publish --why 'deploying'", "routes test publish"),
    "routes list": ("routes list", "routes list --json"),
    "routes hold": ("routes hold publish --why 'deploying'",),
    "routes release": ("routes release publish",),
    "routes test": (
        "routes test publish",
        "routes test publish --type alert.route_held",
        "routes test publish --last 100",
    ),
    "trigger": ("trigger succeed", "trigger failed --endpoint videos/text2video --tag project=ads"),
    "listen": ("listen --forward-to http://localhost:3000/hook", "listen --on succeed -- ./publish --fast"),
    "explain": (f"explain {_TASK}", "explain spring-17 --json"),
    "expose": ("expose nginx --host hooks.example.com", "expose cloudflared --host hooks.example.com"),
    "console": ("console", "console --no-open"),
    "doctor": ("doctor", "doctor --json --config /etc/kling-receiver/config.toml"),
    "profiles": ("profiles list",),
    "profiles list": ("profiles list", "profiles list --json"),
    "config": ("config check", "config show"),
    "config check": ("config check --config new.toml", "config check --json"),
    "config show": ("config show",),
    "config schema": ("config schema",),
    "db": ("db check", "db backup /backup/receiver.db", "db stats"),
    "db migrate": ("db migrate",),
    "db check": ("db check",),
    "db backup": ("db backup /backup/receiver.db",),
    "db restore": ("db restore /backup/receiver.db",),
    "db stats": ("db stats --json",),
    "docs": ("docs", "docs routes"),
    "completion": ("completion bash", "completion zsh"),
}
"""The arguments of each example, by the command's path."""


def examples_of(chain: Sequence[str]) -> Sequence[str]:
    """Return the examples of a command as complete command lines."""
    return [f"kling-receiver {each}" for each in EXAMPLES.get(" ".join(chain), ())]
