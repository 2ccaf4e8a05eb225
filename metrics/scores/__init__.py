"""How alike are two spaces? One family of metrics a module."""
