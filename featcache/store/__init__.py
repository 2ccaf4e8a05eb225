"""The format of one array and of row tables, and how they are read and written."""
