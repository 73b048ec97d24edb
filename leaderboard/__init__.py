"""The board: what the records say, as tables, JSON and pages; a pure function of the ledger."""
