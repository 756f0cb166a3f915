"""The query language for tasks: `state:dead type:webhook age:>1h payload.order_id:123` (docs/query.md), and its SQL.

Reads no database. The API, the command line and bulk operations share it.
"""

from sytq.ledger.query.parse import ALONE, Filter, Term, Value, parse
from sytq.ledger.query.sql import condition

__all__ = ["ALONE", "Filter", "Term", "Value", "condition", "parse"]
