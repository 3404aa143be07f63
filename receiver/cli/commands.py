"""The tree of commands: names, paths and help lines. A command's module is loaded when the command is called."""

from cyclopts import App, Group, Parameter

from receiver import __version__

SERVICE = Group("Service", sort_key=1)
TASKS = Group("Tasks", sort_key=2)
EVENTS = Group("Events and deliveries", sort_key=3)
MAINTENANCE = Group("Maintenance", sort_key=4)


def show_version() -> str:
    """Return the name and version of the program."""
    return f"kling-receiver {__version__}"


app = App(
    name="kling-receiver",
    help="Receive Kling AI's callbacks and deliver each result. To start, run `kling-receiver demo`.",
    version=show_version,
    default_parameter=Parameter(negative=(), show_default=False),
    result_action="return_value",
    print_error=False,
    exit_on_error=False,
)
app["--help"].group = MAINTENANCE
app["--version"].group = MAINTENANCE

_COMMANDS = (
    ("receiver.cli.serve:serve", "serve", SERVICE, "Run the service until it is stopped."),
    ("receiver.cli.demo:demo", "demo", SERVICE, "Show a complete round trip on this machine, without an account."),
    (
        "receiver.cli.simulate:simulate",
        "simulate",
        SERVICE,
        "Simulate Kling's API on this machine, with faults.",
    ),
    ("receiver.cli.submit:submit", "submit", TASKS, "Submit a task to Kling."),
    ("receiver.cli.endpoints:endpoints", "endpoints", TASKS, "List Kling's endpoints and their properties."),
    (
        "receiver.cli.callback_url:callback_url",
        "callback-url",
        TASKS,
        "Create or revoke a callback URL for a job submitted elsewhere.",
    ),
    (
        "receiver.cli.tasks:tasks",
        "tasks",
        TASKS,
        "List, wait for, watch, cancel and retry tasks, and sum their costs.",
    ),
    (
        "receiver.cli.costs:costs",
        "costs",
        TASKS,
        "Compare Kling's ledgers with the stored costs. To sum costs: tasks cost.",
    ),
    ("receiver.cli.batches:batches", "batches", TASKS, "List, show, wait for, close and export batches of tasks."),
    ("receiver.cli.events:events", "events", EVENTS, "List and show events."),
    ("receiver.cli.alerts:alerts", "alerts", EVENTS, "List and acknowledge alerts."),
    ("receiver.cli.deliveries:deliveries", "deliveries", EVENTS, "List, show and retry deliveries."),
    ("receiver.cli.replay:replay", "replay", EVENTS, "Redeliver dead deliveries, or send past events to a new route."),
    ("receiver.cli.routes:routes", "routes", EVENTS, "List, test, hold and release routes."),
    ("receiver.cli.trigger:trigger", "trigger", EVENTS, "Send a test task through the routes, marked as a test."),
    ("receiver.cli.listen:listen", "listen", EVENTS, "Forward events to a program under development."),
    (
        "receiver.cli.explain:explain",
        "explain",
        EVENTS,
        "Explain what happened to a task, and what is next.",
    ),
    ("receiver.cli.mcp.command:mcp", "mcp", SERVICE, "Serve an agent's tools over stdin and stdout (MCP)."),
    ("receiver.cli.nodes:nodes", "nodes", SERVICE, "List the processes that use the database, with their duties."),
    ("receiver.cli.console:console", "console", SERVICE, "Open the console in a browser, logged in."),
    ("receiver.cli.expose:expose", "expose", MAINTENANCE, "Print a proxy configuration for the public listener."),
    (
        "receiver.cli.doctor:doctor",
        "doctor",
        MAINTENANCE,
        "Check the whole installation, with a remedy for each fault.",
    ),
    (
        "receiver.cli.profiles:profiles",
        "profiles",
        MAINTENANCE,
        "List the services that have a name: --profile NAME.",
    ),
    ("receiver.cli.db:db", "db", MAINTENANCE, "Migrate, check, back up, restore and measure the store."),
    ("receiver.cli.config:config", "config", MAINTENANCE, "Check, show and reload the configuration."),
    (
        "receiver.cli.systemd:systemd",
        "systemd",
        MAINTENANCE,
        "Write or remove systemd units for this installation.",
    ),
    ("receiver.cli.docs:docs", "docs", MAINTENANCE, "Show the manual, one subject at a time."),
    ("receiver.cli.completion:completion", "completion", MAINTENANCE, "Print a shell's completion script."),
)

for _path, _name, _group, _help in _COMMANDS:
    app.command(_path, name=_name, group=_group, help=_help)
