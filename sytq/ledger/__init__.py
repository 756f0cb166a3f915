"""The ledger: the SQL tables that remember every task, and everything that reads or writes them."""
