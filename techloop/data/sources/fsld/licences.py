"""Licences of the sounds, as SPDX identifiers."""

import re

LICENCES = ("CC0", "CC-BY", "CC-BY-NC", "CC-Sampling-Plus")  # those that Freesound offers
LICENCE_URL = re.compile(r"creativecommons\.org/(?:licenses|publicdomain)/([a-z+-]+)/(\d\.\d)")


def licence_of(url: str) -> str:
    """The SPDX identifier of a Creative Commons licence, given its address; other text unchanged.

    SPDX has none for Sampling Plus, which becomes `CC-Sampling-Plus-1.0`.
    """
    match = LICENCE_URL.search(url.lower())
    if not match:
        return url
    code, version = match.groups()
    family = {"zero": "CC0", "sampling+": "CC-Sampling-Plus"}.get(code, f"CC-{code.upper()}")
    return f"{family}-{version}"


def check_licence(wanted: str) -> None:
    """Check a licence that a user asks for.

    Raises:
        ValueError: Freesound does not offer it.
    """
    if _family(wanted).lower() not in [licence.lower() for licence in LICENCES]:
        raise ValueError(
            f"fsld: {wanted!r} is not a licence of Freesound; it has {', '.join(LICENCES)}, "
            "each of which may be followed by a version (CC-BY-3.0)"
        )


def is_licence(licence: str, wanted: str) -> bool:
    """Whether a licence is the wanted one, or a version of it where none is named."""
    return wanted.lower() in (licence.lower(), _family(licence).lower())


def _family(licence: str) -> str:
    """A licence without its version."""
    return re.sub(r"-\d\.\d$", "", licence)
