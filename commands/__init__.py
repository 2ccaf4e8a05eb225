"""The command line: each command parses, makes one call, and hands the result to the report."""
