"""The pieces that the schemas of both ports' OpenAPI documents are made of.

Source: new.
"""

from collections.abc import Mapping
from typing import Final

Schema = Mapping[str, object]

TEXT: Final[Schema] = {"type": "string"}
OBJECT: Final[Schema] = {"type": "object"}
INSTANT: Final[Schema] = {"type": "string", "format": "date-time"}
AMOUNT: Final[Schema] = {
    "type": "string",
    "pattern": "^[0-9]+$",
    "description": "minor units, 1 to 2^63-1",
}


def shape(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """Return the schema of an object with these properties."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
    }


def listed(schema: Schema) -> Schema:
    """Return the schema of a list of these."""
    return {"type": "array", "items": schema}
