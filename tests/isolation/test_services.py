"""Each service installs and starts alone: its wheel, its pinned requirements, and no other service."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .conftest import MEMBERS, Installed, run

SERVICES = {"forebay-master": "forebay_master", "forebay-worker": "forebay_worker", "forebay-fuse": "forebay_fuse"}

pytestmark = pytest.mark.slow

IMPORT_ALL = """
import importlib, pkgutil, {package} as top
names = [m.name for m in pkgutil.walk_packages(top.__path__, "{package}.")]
for name in names:
    if not name.startswith({without!r}) and not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names))
"""

CAN_IMPORT = "import importlib.util as u; print(u.find_spec({name!r}) is not None)"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_s_environment_holds_no_other_service(install: Callable[[str], Installed], name: str) -> None:
    environment = install(name)

    for package in SERVICES.values():
        found = environment.python(CAN_IMPORT.format(name=package)).strip()
        assert found == str(package == SERVICES[name]), package


@pytest.mark.parametrize("name", SERVICES)
def test_every_module_of_a_service_finds_what_it_imports(install: Callable[[str], Installed], name: str) -> None:
    count = install(name).python(IMPORT_ALL.format(package=SERVICES[name], without="-"))

    assert int(count) > 1


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_says_its_version(install: Callable[[str], Installed], name: str) -> None:
    environment = install(name)

    assert run(environment.bin / name, "--version", cwd=environment.folder).strip() == f"{name} 0.1.0"


def test_the_client_needs_neither_a_service_nor_an_extra(install: Callable[[str], Installed]) -> None:
    environment = install("forebay")

    for package in (*SERVICES.values(), "aiobotocore", "botocore", "fsspec", "google_crc32c", "torch"):
        assert environment.python(CAN_IMPORT.format(name=package)).strip() == "False", package
    skipped = (
        "forebay.testing",
        "forebay.ufs.s3",
        "forebay.ufs.foreign",
        "forebay.fsspec",
        "forebay.data",
        "forebay.torch",
    )
    assert int(environment.python(IMPORT_ALL.format(package="forebay", without=skipped))) > 10


def test_the_gateway_has_no_s3_library(install: Callable[[str], Installed]) -> None:
    assert install("forebay-fuse").python(CAN_IMPORT.format(name="aiobotocore")).strip() == "False"


@pytest.mark.parametrize("name", MEMBERS)
def test_a_distribution_says_that_it_is_typed(install: Callable[[str], Installed], name: str) -> None:
    package = SERVICES.get(name, "forebay")

    code = f"import pathlib, {package}; print((pathlib.Path({package}.__file__).parent / 'py.typed').is_file())"
    assert install(name).python(code).strip() == "True"
