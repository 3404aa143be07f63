"""The manual and config.toml agree with the code."""

import ast
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import pytest
from pydantic import BaseModel

from receiver.archive import retry as archive_retry
from receiver.cli.commands import EVENTS, MAINTENANCE, SERVICE, TASKS, app
from receiver.cli.options import GLOBAL_OPTIONS
from receiver.service.doctor import kling
from receiver.service.doctor.examination import CHECKS
from receiver.settings import (
    Loaded,
    NotifySettings,
    ScriptSettings,
    Settings,
    WebhookSettings,
    effective_settings,
    load,
)
from receiver.settings.introspection import section_of
from receiver.web.openapi.document import openapi_document

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "config.toml"
README = ROOT / "README.md"
DOCS = ROOT / "receiver" / "docs"
PAGES = sorted(DOCS.glob("*.md"))

CODE_BLOCK = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
PRIVATE_WORDS = re.compile(
    r"\b(nobody|somebody|anybody|whoever|whatever|bell|patience|anteroom|errand)\b"
    r"|told of|brought home|asked about|go(es)? out|let go",
    re.IGNORECASE,
)
"""Words of earlier texts that a reader cannot know or that have a standard term."""

NAMED_IN_CONFIG = {
    "KLING_API_KEY": "sk-made-up",
    "PUBLISH_SECRET": "whsec_bWFkZS11cC1tYWRlLXVwLW1hZGUtdXAtbWFkZS11cA==",
    "PUBLISH_AUTHORIZATION": "Bearer made-up",
    "BUCKET_KEY": "made-up",
    "CHAT_WEBHOOK_URL": "https://chat.example.com/hooks/made-up",
}


def test_every_setting_is_in_config_toml(tmp_path: Path) -> None:
    written = {
        re.sub(r"\.\d+", "", key) for key, origin in with_examples(tmp_path).origins.items() if origin != "default"
    }

    assert sorted(set(keys(Settings)) - {key for each in written for key in (each, each.rpartition(".")[0])}) == []


def test_config_toml_states_the_defaults(tmp_path: Path) -> None:
    empty = tmp_path / "config.toml"
    empty.touch()

    documented = {
        each.key: each.value for each in effective_settings(load(CONFIG, NAMED_IN_CONFIG)) if each.key != "store.url"
    }
    defaults = {
        each.key: each.value for each in effective_settings(load(empty, NAMED_IN_CONFIG)) if each.key != "store.url"
    }

    assert documented == defaults
    assert load(CONFIG, NAMED_IN_CONFIG).settings.store.path == ROOT / "var" / "receiver.db"


def test_the_examples_in_config_toml_are_valid_and_state_the_defaults_of_routes(tmp_path: Path) -> None:
    bare = tmp_path / "config.toml"
    bare.write_text(
        '[[routes]]\nname = "a"\nwebhook = { url = "https://a.example.com/" }\n'
        '[[routes]]\nname = "b"\nscript = { command = ["/bin/true"] }\n'
        '[[routes]]\nname = "c"\nnotify = { urls = ["json://127.0.0.1"] }\n'
    )
    by_hand = re.compile(
        r"routes\.\d+\.(name|on|endpoints|where|webhook\.(url|secret)|script\.(command|env)|notify\.(urls|title|body)"
        r"|.*\.headers.*)"
    )

    values = {each.key: each.value for each in effective_settings(with_examples(tmp_path))}
    defaults = {each.key: each.value for each in effective_settings(load(bare, {})) if not by_hand.match(each.key)}

    assert {key: values[key] for key in defaults if key.startswith("routes.")} == {
        key: value for key, value in defaults.items() if key.startswith("routes.")
    }


def test_every_setting_is_in_the_table_of_keys() -> None:
    table = "\n".join(rows("configuration"))
    named = {re.sub(r"(routes\.\w+)\..*", r"\1", key) for key in keys(Settings)}

    assert sorted(key for key in named if f"`{key}`" not in table) == []


def test_the_table_of_keys_names_only_settings() -> None:
    named = {re.sub(r"(routes\.\w+)\..*", r"\1", key) for key in keys(Settings)}
    table = [key for row in rows("configuration") for key in re.findall(r"`([a-z_.]+\.[a-z_]+)`", row.split(" | ")[0])]

    assert sorted(set(table) - named) == []


def test_every_part_of_a_routes_destination_is_in_the_table_of_keys() -> None:
    for kind in (WebhookSettings, ScriptSettings, NotifySettings):
        row = next(row for row in rows("configuration") if row.startswith(f"| `routes.{kind.__name__[:-8].lower()}`"))

        assert [name for name in kind.model_fields if f"`{name}`" not in row] == []


def test_every_command_is_in_the_table_of_commands() -> None:
    table = "\n".join(rows("commands"))

    assert sorted(command for command in commands() if f"`{command}" not in table) == []


def test_every_check_of_the_doctor_is_in_its_table_and_no_other() -> None:
    section = page("operations").partition("## Check an installation")[2].partition("\n## ")[0]
    table = set(re.findall(r"^\| `([a-z_.]+(?:NAME)?)` \|", section, re.MULTILINE))
    names = {check.name for check in CHECKS} - {"kling", "routes"}

    assert table == names | {"configuration", kling.KEY, kling.CLOCK, "routes.NAME"}


def test_the_commands_have_the_groups_of_the_help() -> None:
    groups = [SERVICE, TASKS, EVENTS, MAINTENANCE, GLOBAL_OPTIONS]

    assert re.findall(r"^## (.*)$", page("commands"), re.MULTILINE) == [group.name for group in groups]


def test_the_table_of_commands_names_only_commands() -> None:
    named = [name for row in rows("commands") for name in re.findall(r"`([a-z][a-z -]*)", row.split(" | ")[0])]
    known = {*commands(), *(command.split()[0] for command in commands())}

    assert [name.strip() for name in named if name.strip() not in known and not name.startswith("expose ")] == []


def test_every_http_path_is_in_the_table_of_paths_and_no_other() -> None:
    described = {
        f"{method.upper()} {path}" for path, methods in openapi_document().paths.items() for method in methods
    } | {"POST /callbacks/{token}"}

    assert {path for row in rows("http-api") for path in re.findall(r"^\| `([A-Z]+ /[^`]*)`", row)} == described


def test_every_alert_is_in_the_table_of_alerts_and_no_other() -> None:
    table = {name for row in rows("alerts") for name in re.findall(r"^\| `alert\.(\w+)`", row)}

    assert table == alerts()


def test_each_promise_names_tests_that_exist() -> None:
    beside = [row.rpartition(" | ")[2] for row in rows("promises") if "/test_" in row]
    files = [
        (file, names) for each in beside for file, names in re.findall(r"`([a-z0-9]+/test_\w+\.py)`([^;|]*)", each)
    ]

    assert len(beside) == len(re.findall(r"^\| .* \| `", page("promises"), re.MULTILINE))
    assert len(files) >= len(beside) > 0
    for file, names in files:
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert [name for name in re.findall(r"`(test_\w+)`", names) if f"def {name}(" not in text] == [], file


def test_the_package_map_names_every_package() -> None:
    (tree,) = re.findall(r"```text\nreceiver/\n(.*?)```", page("development"), re.DOTALL)

    assert re.findall(r"^  (\w+)/", tree, re.MULTILINE) != []
    assert set(re.findall(r"^  (\w+)/", tree, re.MULTILINE)) == {
        each.parent.name for each in (ROOT / "receiver").glob("*/__init__.py")
    } | {DOCS.name}


def test_each_module_that_the_walks_name_exists() -> None:
    packages = "|".join(each.parent.name for each in (ROOT / "receiver").glob("*/__init__.py"))
    named = re.findall(rf"`((?:{packages})/[\w/]*)`", page("development"))

    assert len(named) > 30
    assert [name for name in named if not is_module(ROOT / "receiver" / name)] == []


@pytest.mark.parametrize("path", [README, *PAGES], ids=lambda path: path.stem)
def test_each_relative_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    for target, _, heading in links(path):
        there = (path.parent / target).resolve() if target else path
        assert there.exists(), target
        assert not heading or heading in headings(there), f"{target}#{heading}"


def test_the_readme_is_short_and_lists_every_page() -> None:
    text = README.read_text(encoding="utf-8")
    listed = {target for target, _, heading in links(README) if not heading}

    assert len(text.splitlines()) < 250
    assert "make demo" in text
    assert "make test" in text
    assert [page.name for page in PAGES if f"receiver/docs/{page.name}" not in listed] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_each_page_begins_with_a_title_and_a_sentence_of_purpose(path: Path) -> None:
    title, purpose, rest = path.read_text(encoding="utf-8").split("\n\n", 2)

    assert re.fullmatch(r"# [A-Z][\w ]+", title)
    assert re.fullmatch(r"[A-Z][^.]*(\.[a-z][^.]*)*\.", " ".join(purpose.split()))
    assert rest


@pytest.mark.parametrize("path", [README, *PAGES], ids=lambda path: path.stem)
def test_prose_has_short_lines_and_no_private_words(path: Path) -> None:
    prose = CODE_BLOCK.sub("", path.read_text(encoding="utf-8"))

    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")] == []
    assert PRIVATE_WORDS.findall(re.sub(r"`[^`]*`", "", prose)) == []


def page(subject: str) -> str:
    """Return the Markdown of a page of the manual."""
    return (DOCS / f"{subject}.md").read_text(encoding="utf-8")


def rows(subject: str) -> list[str]:
    """Return the rows of a page's tables."""
    return [line for line in page(subject).splitlines() if line.startswith("| ")]


def links(path: Path) -> list[tuple[str, str, str]]:
    """List a page's links to files of ours: the file, the mark between, and the heading."""
    prose = CODE_BLOCK.sub("", path.read_text(encoding="utf-8"))
    return [target.partition("#") for target in re.findall(r"\]\(([^)]+)\)", prose) if "://" not in target]


def headings(path: Path) -> set[str]:
    """List the headings of a page as links name them."""
    prose = CODE_BLOCK.sub("", path.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def is_module(path: Path) -> bool:
    return path.is_dir() or path.with_suffix(".py").is_file()


def alerts() -> set[str]:
    """List the alerts that the code can raise: by name, or by a kind of the archive's."""
    sources = [path for path in (ROOT / "receiver").rglob("*.py") if "cli" not in path.parts]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sources]
    raising = {"alert"}
    while more := {name for tree in trees for name in passing_on(tree, raising)} - raising:
        raising |= more
    named = {
        call.args[0].value
        for tree in trees
        for call in calls(tree, raising)
        if isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str)
    }
    kinds = [each for each in vars(archive_retry).values() if isinstance(each, type) and each.__name__[-5:] == "Alert"]
    return named | {kind.value for each in kinds if issubclass(each, StrEnum) for kind in each}


def passing_on(tree: ast.AST, raising: set[str]) -> Iterator[str]:
    """Name the functions that hand their first argument on to one that raises an alert of that name."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            first = [each.arg for each in function.args.args if each.arg != "self"][:1]
            for call in calls(function, raising):
                if isinstance(call.args[0], ast.Name) and [call.args[0].id] == first:
                    yield function.name


def calls(tree: ast.AST, names: set[str]) -> Iterator[ast.Call]:
    """Give the calls with arguments of methods by their names."""
    for call in ast.walk(tree):
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr in names
            and call.args
        ):
            yield call


def commands() -> list[str]:
    """List every command, with the group it stands in."""
    found = []
    for name in app:
        if name.startswith("-"):
            continue
        below = [each for each in app[name] if not each.startswith("-")]
        found += [f"{name} {each}" for each in below] or [name]
    return found


def with_examples(folder: Path) -> Loaded:
    """Load config.toml with the # taken off its example routes, with a named token and a model's limit."""
    text = CONFIG.read_text().replace("tokens = {}", 'tokens = { anna = "the-token-of-anna" }')
    text = text.replace("models = {}", 'models = { "kling-v2-1" = 5 }')
    before, mark, examples = text.partition("\n# [[routes]]")
    assert mark
    taken_off = re.sub(r"^# ?", "", mark.lstrip("\n") + examples, flags=re.MULTILINE)
    path = folder / "with-examples.toml"
    path.write_text(f"{before}\n{taken_off}")
    return load(path, NAMED_IN_CONFIG)


def keys(section: type[BaseModel], above: str = "") -> list[str]:
    """List every key there may be, without the numbers of routes."""
    found = []
    for name, field in section.model_fields.items():
        below = section_of(field)
        found += keys(below, f"{above}{name}.") if below else [f"{above}{name}"]
    return found
