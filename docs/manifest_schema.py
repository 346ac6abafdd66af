"""Write ``docs/manifest.schema.json``, the JSON schema of a bundle's manifest, from the structs.

python docs/manifest_schema.py           writes the schema
python docs/manifest_schema.py --check   exits with 1 if the schema is not up to date
"""

from __future__ import annotations

import sys
from pathlib import Path

from arguments import asked_to_check

from edgekit.bundle.manifest import json_schema

PUBLISHED = Path(__file__).parent / "manifest.schema.json"


def main() -> None:
    """Write the schema, or check it against the structs."""
    if not asked_to_check(__doc__):
        PUBLISHED.write_bytes(json_schema())
    elif not PUBLISHED.is_file() or PUBLISHED.read_bytes() != json_schema():
        sys.exit(f"{PUBLISHED.name} is not up to date with the structs; run python docs/manifest_schema.py")


if __name__ == "__main__":
    main()
