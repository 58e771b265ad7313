"""What every test starts from."""

import os
import signal

from hypothesis import settings

# The same examples in every run: whoever looks for new ones sets HYPOTHESIS_PROFILE=default. And no deadline: a busy machine is
# no fault.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# A run started in the background ignores Ctrl-C, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes give no test its name: packed ones hold the time they were packed at, and each process would have its own."""
    return argname if isinstance(val, bytes) else None
