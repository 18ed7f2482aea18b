"""How many examples a property is tried on: few in `make test`, the same each time; many in `make test-slow`."""

from hypothesis import settings

MORE = 20


def examples(count: int) -> settings:
    """Return settings for so many examples, and 20 times as many under the profile of the slow tests."""
    return settings(max_examples=count * (MORE if settings.get_current_profile_name() == "slow" else 1))
