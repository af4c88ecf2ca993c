import re
import tomllib
from pathlib import Path

from clawsettle.config import Settings, load
from clawsettle.config.sources import catalogue

EXAMPLE = Path(__file__).parents[2] / "clawsettle.toml"


def test_the_example_equals_the_defaults_key_for_key() -> None:
    loaded = load(EXAMPLE, environ={})
    for name in loaded.origins:
        section, key = name.split(".")
        in_example = getattr(getattr(loaded.settings, section), key)
        assert in_example == getattr(getattr(Settings(), section), key), name
    assert loaded.settings == Settings()


def test_the_example_has_every_key_in_the_settings_order() -> None:
    document = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    names = [f"{section}.{key}" for section, table in document.items() for key in table]
    assert names == list(catalogue(Settings))


def test_the_example_explains_every_key_and_names_its_range_and_environment() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    for name, key in catalogue(Settings).items():
        section, short = name.split(".")
        body = text.split(f"[{section}]\n", 1)[1]
        found = re.search(rf"((?:^# .*\n)+){short} = ", body, re.MULTILINE)
        assert found is not None, name
        comment = found[1].replace("\n# ", " ")
        assert all(env.name in comment for env in key.env), name
        bounds = re.search(r"from ([\d.]+) to (\d+)$", key.rule.wanted)
        assert bounds is None or f"({bounds[1]} to {bounds[2]})" in comment, name
