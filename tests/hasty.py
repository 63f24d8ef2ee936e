"""The built-in agent, which soon tries again and soon gives a silent model up, for `AGENT=tests.hasty:agent`."""

import os

from tests.with_model import claude

STALL_S = 0.3

agent = claude(os.environ["ANTHROPIC_BASE_URL"], stall_s=STALL_S)
