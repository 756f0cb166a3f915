"""The query language for tasks: `state:dead type:webhook age:>1h payload.order_id:123`.

Owns what may be asked and how it is said in SQL; docs/query.md is its page. Reads no database, and must not know where
a query came from: the API, the command line and bulk operations all ask in these words.
"""

from sytq.ledger.query.parse import Filter, Term, Value, parse
from sytq.ledger.query.sql import condition

__all__ = ["Filter", "Term", "Value", "condition", "parse"]
