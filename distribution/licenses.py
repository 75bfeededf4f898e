"""`python -m distribution.licenses`: write THIRD_PARTY.md from the metadata of what the lock names."""

import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from distribution.lock import LOCK, read

LIST = LOCK.with_name("THIRD_PARTY.md")
CLASSIFIER = "License :: OSI Approved :: "
HEAD = """# Third-party software

The container image is made with these distributions, in the versions of `requirements.lock`. The text of
each license is in the folder of the distribution's metadata. `make lock` writes this page.

| Distribution | Version | License |
|---|---|---|
"""


def main() -> int:
    """Write the list. Returns 1 if a distribution is not installed or states no license."""
    try:
        rows = [f"| {pin.name} | {pin.version} | {license_of(pin.name)} |\n" for pin in read(LOCK.read_text())]
    except (PackageNotFoundError, LookupError) as error:
        print(f"cannot list the licenses: {error}", file=sys.stderr)
        return 1
    LIST.write_text(HEAD + "".join(rows))
    return 0


def license_of(name: str) -> str:
    """Return the license that an installed distribution states.

    Raises:
        PackageNotFoundError: It is not installed.
        LookupError: It states none.
    """
    found = distribution(name)
    stated = found.metadata
    classifiers = [one.removeprefix(CLASSIFIER) for one in stated.get_all("Classifier", []) if CLASSIFIER in one]
    field = (stated.get_all("License") or [""])[0].strip().partition("\n")[0]
    license_ = (
        "".join(stated.get_all("License-Expression", [])) or " and ".join(classifiers) or field or _title(found)
    )
    if not license_:
        raise LookupError(f"{name} states no license")
    return license_


def _title(found: Distribution) -> str:
    """Return the first two lines of the license's text, which name it and its version, or an empty string."""
    for file in found.files or ():
        if file.name.startswith("LICENSE"):
            return ", ".join([line.strip() for line in file.read_text().split("\n") if line.strip()][:2])
    return ""


if __name__ == "__main__":
    sys.exit(main())
