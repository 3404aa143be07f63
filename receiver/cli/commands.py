"""The tree of commands. Only names and paths: a command's file is loaded when the command is called."""

from cyclopts import App, Group, Parameter

from receiver import __version__

SERVICE = Group("Service", sort_key=1)
TASKS = Group("Tasks", sort_key=2)
HISTORY = Group("What happened", sort_key=3)
MAINTENANCE = Group("Upkeep", sort_key=4)


def show_version() -> str:
    """Tell which version this is."""
    return f"kling-receiver {__version__}"


app = App(
    name="kling-receiver",
    help="Receives Kling AI's callbacks and leads each result to where it is wanted. First: `kling-receiver demo`.",
    version=show_version,
    default_parameter=Parameter(negative=(), show_default=False),
    result_action="return_value",
    print_error=False,
    exit_on_error=False,
)
app["--help"].group = MAINTENANCE
app["--version"].group = MAINTENANCE

_COMMANDS = (
    ("receiver.cli.serve:serve", "serve", SERVICE, "Run the service until it is told to stop."),
    ("receiver.cli.demo:demo", "demo", SERVICE, "Show a whole round trip on this machine, with no account."),
    ("receiver.cli.simulate:simulate", "simulate", SERVICE, "Be Kling's API on this machine, with faults on demand."),
    ("receiver.cli.submit:submit", "submit", TASKS, "Submit a task to Kling."),
    (
        "receiver.cli.endpoints:endpoints",
        "endpoints",
        TASKS,
        "List what Kling can be asked for, and what is known of it.",
    ),
    ("receiver.cli.callback_url:callback_url", "callback-url", TASKS, "Make a callback URL for a job sent elsewhere."),
    ("receiver.cli.tasks:tasks", "tasks", TASKS, "List, show, wait for and watch tasks, and sum what they cost."),
    ("receiver.cli.batches:batches", "batches", TASKS, "List, show, wait for and close batches of tasks."),
    ("receiver.cli.events:events", "events", HISTORY, "List and show events."),
    ("receiver.cli.deliveries:deliveries", "deliveries", HISTORY, "List, show and retry deliveries."),
    ("receiver.cli.replay:replay", "replay", HISTORY, "Bring out again what died, or what a new route is to have."),
    ("receiver.cli.routes:routes", "routes", HISTORY, "List, test, hold and release routes."),
    ("receiver.cli.listen:listen", "listen", HISTORY, "Bring events to a program under development."),
    ("receiver.cli.explain:explain", "explain", HISTORY, "Tell a task's whole story, and what comes next."),
    ("receiver.cli.expose:expose", "expose", MAINTENANCE, "Print a proxy's settings for the public listener."),
    ("receiver.cli.config:config", "config", MAINTENANCE, "Check and show the configuration."),
    ("receiver.cli.db:db", "db", MAINTENANCE, "Look after the store."),
    ("receiver.cli.docs:docs", "docs", MAINTENANCE, "Show the manual, one subject at a time."),
    ("receiver.cli.completion:completion", "completion", MAINTENANCE, "Print a shell's completion script."),
)

for _path, _name, _group, _help in _COMMANDS:
    app.command(_path, name=_name, group=_group, help=_help)
