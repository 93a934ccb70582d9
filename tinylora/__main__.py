"""`python -m tinylora`"""

import sys

from tinylora.app.cli import main

sys.exit(main())
