"""The workbook: notebooks executed with parameters, the runs they need, and the pipeline that runs it all."""

import sys

# jsonschema, which nbformat imports, would compile 39 grammars at each start, two seconds of every pipeline process,
# for formats of addresses that no notebook's schema has.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
