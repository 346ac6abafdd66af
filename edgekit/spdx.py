"""Licences by their SPDX names."""

from __future__ import annotations


def spdx(text: str) -> str:
    """An SPDX licence expression in its usual spelling, like ``Apache-2.0``; empty for an empty one.

    Raises ValueError, with a sentence that ends in what to do, for any other text. https://spdx.org/licenses
    """
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    if not text.strip():
        return ""
    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        raise ValueError(
            f"{text!r} is no SPDX licence; write one like Apache-2.0 or MIT, or LicenseRef-NAME for one of your own"
        ) from None
