"""Methods measured side by side: ``ablate bench attention | model | variants | data``.

What is compared runs in turn, A B C A B C, on the same inputs, so that a machine that slows down slows all of it
down; a ratio is the median of the ratios within a round. Every sample is kept.
"""

import suite.look  # noqa: F401  Before any bench imports matplotlib.
