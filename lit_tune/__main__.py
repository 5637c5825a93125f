"""`python -m lit_tune SUB ...`, the same program as `lit-tune SUB ...`."""

import sys

from lit_tune import cli

if __name__ == "__main__":
    sys.exit(cli.main())
