"""Text, tables and pages from plans and measurements."""
