"""`python -m ipsec_fast` is `ipsec-fast`."""

import sys

from .cli import main

sys.exit(main())
