"""Stage two: a light CNN learns from a sealed cache. The teacher is not needed, and never imported."""
