"""What is public is listed, documented and there; what must start quickly imports little."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import energyscape

MODULES = [
    m.name
    for m in pkgutil.walk_packages(energyscape.__path__, "energyscape.")
    if not any(part.startswith("_") for part in m.name.split("."))
]


def order(name: str) -> tuple[int, str]:
    """The order ruff holds: CONSTANTS, then Classes, then functions, each by the alphabet."""
    first = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    return first, name


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_listed_in_order_there_and_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} does not say what it is"
    listed = list(module.__all__)
    assert listed in (sorted(listed, key=order), sorted(listed)), f"{name}.__all__ is not sorted"
    assert len(set(listed)) == len(listed)
    for public in listed:
        thing = getattr(module, public)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        # A dataclass without a docstring is given its signature for one.
        own = (thing.__doc__ or "").strip()
        assert own, f"{name}.{public} has no docstring"
        assert not own.startswith(f"{public}("), f"{name}.{public} has no docstring of its own"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_lists_all_it_defines_for_others(name: str) -> None:
    """What a room exports stands in the list of the module that defines it, where it has one."""
    module = importlib.import_module(name)
    for public in module.__all__:
        home = sys.modules.get(getattr(getattr(module, public), "__module__", name))
        if home is not None and home.__name__.startswith("energyscape."):
            assert public in home.__all__, f"{home.__name__}.__all__ lacks {public}"


def test_names_of_the_package_resolve_and_others_are_refused() -> None:
    assert energyscape.__all__ == sorted(energyscape.__all__)
    assert dir(energyscape) == energyscape.__all__
    for name in energyscape.__all__:
        thing = getattr(energyscape, name)
        home = getattr(thing, "__module__", "energyscape")
        assert home.startswith("energyscape") or isinstance(thing, str)
    with pytest.raises(AttributeError, match="no attribute 'Energies'"):
        energyscape.Energies  # noqa: B018


@pytest.mark.parametrize("package", ["energyscape", "energyscape.cli", "energyscape.data"])
def test_torch_is_not_imported_before_it_is_needed(package: str) -> None:
    code = f"import sys, {package}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_side_rooms_know_no_torch() -> None:
    code = (
        "import sys, energyscape.detection, energyscape.metrics, energyscape.data as d\n"
        "d.load('two-moons')\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
