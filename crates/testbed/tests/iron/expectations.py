"""Expectations of the scripts with the published clients."""

import time

from requests.exceptions import HTTPError


def refused(call, status):
    """Expects the call to be refused with this status and with words. Returns the words."""
    try:
        call()
    except HTTPError as error:
        assert error.response.status_code == status, error.response.text
        assert error.response.json()["msg"], error.response.text
        return error.response.json()["msg"]
    raise AssertionError("not refused")


def wait(what, probe, seconds=40, seen=""):
    """Waits until the probe finds something, and returns it."""
    deadline = time.time() + seconds
    while time.time() < deadline:
        found = probe()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited too long: {what}: {seen}")
