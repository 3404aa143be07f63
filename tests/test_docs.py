"""What is written for people keeps up with the code."""

import re
from pathlib import Path

from pydantic import BaseModel

from receiver.cli.commands import app
from receiver.settings import Loaded, ScriptSettings, Settings, WebhookSettings, load, shown
from receiver.settings.introspection import section_of

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "config.toml"
README = (ROOT / "README.md").read_text(encoding="utf-8")

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


def test_config_toml_says_the_defaults(tmp_path: Path) -> None:
    empty = tmp_path / "config.toml"
    empty.touch()

    said = {each.key: each.value for each in shown(load(CONFIG, NAMED_IN_CONFIG)) if each.key != "store.url"}
    defaults = {each.key: each.value for each in shown(load(empty, NAMED_IN_CONFIG)) if each.key != "store.url"}

    assert said == defaults
    assert load(CONFIG, NAMED_IN_CONFIG).settings.store.path == ROOT / "var" / "receiver.db"


def test_the_examples_in_config_toml_hold_and_say_the_defaults_of_routes(tmp_path: Path) -> None:
    bare = tmp_path / "config.toml"
    bare.write_text(
        '[[routes]]\nname = "a"\nwebhook = { url = "https://a.example.com/" }\n'
        '[[routes]]\nname = "b"\nscript = { command = ["/bin/true"] }\n'
    )
    by_hand = re.compile(
        r"routes\.\d+\.(name|on|endpoints|where|webhook\.(url|secret)|script\.(command|env)|.*\.headers.*)"
    )

    said = {each.key: each.value for each in shown(with_examples(tmp_path))}
    defaults = {each.key: each.value for each in shown(load(bare, {})) if not by_hand.match(each.key)}

    assert {key: said[key] for key in defaults if key.startswith("routes.")} == {
        key: value for key, value in defaults.items() if key.startswith("routes.")
    }


def test_every_setting_is_in_the_readmes_table() -> None:
    table = "\n".join(line for line in README.splitlines() if line.startswith("| `"))
    named = {re.sub(r"(routes\.\w+)\..*", r"\1", key) for key in keys(Settings)}

    assert sorted(key for key in named if f"`{key}`" not in table) == []


def test_every_part_of_a_routes_destination_is_in_the_readmes_table() -> None:
    for kind in (WebhookSettings, ScriptSettings):
        row = next(line for line in README.splitlines() if line.startswith(f"| `routes.{kind.__name__[:-8].lower()}`"))

        assert [name for name in kind.model_fields if f"`{name}`" not in row] == []


def test_every_command_is_in_the_readme() -> None:
    assert sorted(command for command in commands() if f"`{command}" not in README) == []


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
    """Load config.toml with the # taken off its example routes."""
    text = CONFIG.read_text()
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


def test_the_tests_that_promises_name_are_there() -> None:
    (promises,) = re.findall(r"## What is promised.*?`make test` runs all", README, re.DOTALL)
    beside = [line.rpartition(" | ")[2] for line in promises.splitlines() if line.startswith("| ")][1:]
    files = [
        (file, names) for each in beside for file, names in re.findall(r"`([a-z0-9]+/test_\w+\.py)`([^;|]*)", each)
    ]

    assert files
    assert len(files) >= len(beside)
    for file, names in files:
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert [name for name in re.findall(r"`(test_\w+)`", names) if f"def {name}(" not in text] == [], file
