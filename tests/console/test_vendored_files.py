"""The console's vendored files are the ones that the manifest names."""

import hashlib
import json
import re
from pathlib import Path

import receiver

VENDOR = Path(receiver.__file__).parent / "web" / "console" / "static" / "vendor"
MANIFEST = json.loads((VENDOR / "manifest.json").read_text())


def test_every_vendored_script_is_in_the_manifest_with_its_hash() -> None:
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in VENDOR.glob("*.js")} == {
        name: entry["sha256"] for name, entry in MANIFEST.items()
    }


def test_the_manifest_names_the_version_that_htmx_says() -> None:
    versions = re.findall(r'version="(\d+\.\d+\.\d+)"', (VENDOR / "htmx.min.js").read_text())

    assert versions == [MANIFEST["htmx.min.js"]["version"]]


def test_no_static_file_or_template_names_another_host() -> None:
    console = VENDOR.parents[1]
    sources = [path for path in console.rglob("*") if path.suffix in (".html", ".css", ".js", ".svg")]

    found = [
        (path.name, url)
        for path in sources
        for url in re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}[^\s\"'`)]*", path.read_text())
        if not url.startswith(("http://www.w3.org/", "https://www.w3.org/"))
    ]
    assert found == []
