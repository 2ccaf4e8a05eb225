"""Runs the command line from a checkout: python cli.py --help."""

try:
    from featcache.commands.app import main
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}; featcache is not installed here. Run: make setup") from error

if __name__ == "__main__":
    main()
