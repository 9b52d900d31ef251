"""Which layout, how many GPUs, at what cost: from measured capacity first, then from expectation.

``question`` is what is asked, ``inputs`` what there is to choose from, ``evidence`` what rows say,
``expected`` what the queueing model says, ``offers`` puts them in order, ``unmeasured`` names the
cells that would change the answer. Pure, but for the shapes that ``inputs`` reads.
"""
