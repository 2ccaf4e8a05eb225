"""The claims ledger: claims as data, each judged by the rows of a sweep, with effect, interval and verdict."""
