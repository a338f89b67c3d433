"""Embeddings that have collapsed: (nearly) the same for every recording, or nothing but zeros.

Between trained embeddings of different speakers lie tens of degrees, and even between those of a network with random
weights, all of which point the same way, some degrees. Collapsed are those with fewer than `COLLAPSED_DEGREES`, the
root mean square over the non-target trials of a list: rounding to bfloat16 moves each number by up to a share of 2^-9,
so a vector by up to 2^-9 radians, and what is not ten times as far apart is little more than rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mrl.evaluation.verification import VerificationResult

COLLAPSED_DEGREES = math.degrees(10.0 * 2.0**-9)  # 1.12


def degrees_between(mean_cosine: float) -> float:
    """The root mean square angle, in degrees, of pairs with that mean cosine: 1 - cos a = a^2 / 2 for the small
    angles that are asked about; above, an underestimate."""
    return math.degrees(math.sqrt(max(0.0, 2.0 * (1.0 - mean_cosine))))


def collapse_warnings(results: Sequence[VerificationResult]) -> list[str]:
    """A sentence for each list with collapsed or all-zero embeddings; prefix 1, which has no direction, aside."""
    warnings = []
    for result in results:
        collapsed = {
            prefix.dim: degrees
            for prefix in result.prefixes
            if prefix.dim > 1 and (degrees := degrees_between(prefix.between_speakers)) < COLLAPSED_DEGREES
        }
        if collapsed:
            found = ", ".join(f"{degrees:.2g} degrees at {dim}" for dim, degrees in collapsed.items())
            warnings.append(
                f"{result.name}: the embeddings have COLLAPSED, those of different speakers are {found} apart"
            )
        zeros = {prefix.dim: prefix.num_zero for prefix in result.prefixes if prefix.num_zero}
        if zeros:
            found = ", ".join(f"{count:,} at {dim}" for dim, count in zeros.items())
            warnings.append(
                f"{result.name}: of {result.num_utterances:,} embeddings, some are ALL ZERO, which scores 0 with "
                f"everything: {found}"
            )
    return warnings
