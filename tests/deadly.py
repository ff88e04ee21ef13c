"""A worker that dies on one case; a process that is spawned must be able to import it."""

import os

from amae_nnunet.plans import unlabeled

original = unlabeled._preprocess


def dies_on_two(job):
    if job.case == "more_002":
        os.kill(os.getpid(), 9)
    return original(job)
