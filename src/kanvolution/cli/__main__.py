"""`python -m kanvolution.cli`."""

import sys

from kanvolution.cli.entry import main

sys.exit(main())
