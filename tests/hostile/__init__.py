"""Every kind of bad input that is known, and what must become of each: tests run it, docs/bad-data.md shows it."""

from tests.hostile.rows import ROWS, write_broken_table
from tests.hostile.tables import TABLES

__all__ = ["ROWS", "TABLES", "write_broken_table"]
