"""The ``tpsweep`` command: one file per command."""
