"""``python -m aqdask`` is ``aqdask``."""

from aqdask.cli import main

if __name__ == "__main__":
    main()
