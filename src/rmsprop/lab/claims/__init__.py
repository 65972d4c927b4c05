"""What is said about RMSprop, run and judged.

`CLAIMS` has the claims by name. `run_claims` runs some of them, and `stored_results` returns the results that come with
the package. A claim of one's own is a `Claim`; `rmsprop claims FILE.py` runs those of a file.
"""

from rmsprop.lab.claims.catalogue import CLAIMS, claims_of, fast_claims, find_claims
from rmsprop.lab.claims.claim import Bound, Claim, Line, Number, Picture, Source, near
from rmsprop.lab.claims.own_file import claims_in
from rmsprop.lab.claims.result import Result, check_can_fail, run_claim
from rmsprop.lab.claims.session import run_claims
from rmsprop.lab.claims.stored import stored_results
from rmsprop.lab.claims.trainings import TrainingClaim

__all__ = [
    "CLAIMS",
    "Bound",
    "Claim",
    "Line",
    "Number",
    "Picture",
    "Result",
    "Source",
    "TrainingClaim",
    "check_can_fail",
    "claims_in",
    "claims_of",
    "fast_claims",
    "find_claims",
    "near",
    "run_claim",
    "run_claims",
    "stored_results",
]
